"""HTML and SVG as a tree, so that text from a log can only ever become text."""
from xml.etree import ElementTree

from speedrun.text import printable

MOST_TEXT, MOST_VALUE = 2000, 10**6  # characters of one piece of text, of an attribute (a path is long)


def element(tag: str, *children, **attributes) -> ElementTree.Element:
    """<tag attributes>children</tag>; a child is an element or text; None is left out, as a child and as an
    attribute. `aria_label` is aria-label, `class_` is class. Control and invisible characters become
    escapes here; what HTML takes for markup is escaped where the tree is written."""
    found = ElementTree.Element(tag, {
        name.rstrip("_").replace("_", "-"): printable(value, MOST_VALUE)
        for name, value in attributes.items() if value is not None})
    for child in children:
        if isinstance(child, ElementTree.Element):
            found.append(child)
        elif child is not None:
            text = printable(child, MOST_TEXT)
            if len(found):
                found[-1].tail = (found[-1].tail or "") + text
            else:
                found.text = (found.text or "") + text
    return found


def write(root: ElementTree.Element) -> str:
    """The document of an <html> element."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
