"""What CLEVR's objects can be, and how they can lie to one another."""

VALUES = {
    "size": ("large", "small"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
}
ATTRIBUTES = tuple(VALUES)
DIRECTIONS = ("left", "right", "behind", "front")
