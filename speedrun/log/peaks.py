"""What a device can do at most."""
import re

# Dense bfloat16 peak in FLOP/s by a part of the device's name, from the makers' data sheets.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "H200 NVL": 835e12,
              "GH200": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12,
              "A40": 149.7e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12,
              "A10": 125e12}
# FLOP/s that no thread of a CPU sustains: two AVX-512 units of 16 fused multiply-adds in float32, or AMX's
# 1,024 in bfloat16, at 4 GHz.
THREAD_FLOPS = {"float32": 2 * 16 * 2 * 4e9, "bfloat16": 1024 * 2 * 4e9}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where the table does not have it; the longest match counts."""
    matches = [name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device_name)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None
