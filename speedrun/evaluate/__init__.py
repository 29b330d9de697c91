"""What a trained model can do, beside its loss: hellaswag.evaluate scores saved weights."""
