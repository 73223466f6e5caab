"""Renders a scene in CLEVR's style (Johnson et al., CVPR 2017, appendix) by ray tracing.
Light is linear, 1 is white; numbers without a name were fitted to images by Blender's Cycles."""

import numpy as np
from numba import njit

WIDTH, HEIGHT = 480, 320  # of CLEVR's images, pixels
LENS_X, LENS_Y = 16 / 35, 16 / 35 / 1.5  # half the film over the focal length
SIZES = {"large": 0.7, "small": 0.35}  # half edge, radius, half height
COLORS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
SHAPES = {
    "cube": 0.18,
    "sphere": 1.0,
    "cylinder": 0.08,
}  # radius of the edges over the size
SOLID = np.dtype(
    [("position", "f8", 3), ("color", "f8", 3), ("cube", "?"), ("metal", "?")]
    + [(name, "f8") for name in ("size", "edge", "bound", "cos", "sin")]
)
LAMPS = (
    (0.25, 78.5, (1, 0.932, 0.817)),  # key, back, fill: half side, watts, colour
    (0.5, 39.3, (1, 1, 1)),
    (0.25, 23.6, (0.762, 0.818, 1)),
)
LAMP = np.dtype(
    [(name, "f8", 3) for name in ("position", "right", "up", "forward", "power")]
)
SUN = (0.067, -0.031, 0.143)  # direction times intensity, soft
BACK = (-0.917, 0.396, 0.0)  # where, far away, the ground curves up
NOTHING = (0.0, 0.0, 0.0)
jit = njit(cache=True, error_model="numpy")


def camera_axes(camera):
    """Right, up and forward of a camera at `camera` that looks at the origin, z up: (3,) each."""
    forward = -camera / np.linalg.norm(camera)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def render(objects, rig, width=WIDTH, height=HEIGHT):
    """The image of a scene, uint8 (height, width, 3), sRGB: the same bytes for the same scene."""
    light = trace(solids_of(objects), lamps_of(rig), view_of(rig.camera), width, height)
    srgb = np.where(
        light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    return np.rint(255 * srgb).astype(np.uint8)


def view_of(camera):
    """The camera, half the width and half the height of its film, and where it looks."""
    right, up, forward = camera_axes(camera)
    return tuple(
        tuple(v.tolist()) for v in (camera, right * LENS_X, up * LENS_Y, forward)
    )


def lamps_of(rig):
    """The three lamps, squares that look at the origin, as an array of LAMP, power over pi."""
    lamps = []
    for position, (half, watts, color) in zip(
        (rig.key, rig.back, rig.fill), LAMPS, strict=True
    ):
        right, up, forward = camera_axes(position)
        lamps.append(
            (
                position,
                right * half,
                up * half,
                forward,
                np.multiply(color, watts / np.pi),
            )
        )
    return np.array(lamps, LAMP)


def solids_of(objects):
    """The official object dicts as an array of SOLID."""
    solids = []
    for thing in objects:
        size, angle = SIZES[thing["size"]], np.deg2rad(thing["rotation"])
        edge, cube = SHAPES[thing["shape"]] * size, thing["shape"] == "cube"
        bound = edge + (size - edge) * (3 if cube else 2) ** 0.5
        solids.append(
            (
                thing["3d_coords"],
                np.divide(COLORS[thing["color"]], 255),
                cube,
                thing["material"] == "metal",
                size,
                edge,
                bound,
                np.cos(angle),
                np.sin(angle),
            )
        )
    return np.array(solids, SOLID)


@jit
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def along(origin, direction, t):
    return (
        origin[0] + t * direction[0],
        origin[1] + t * direction[1],
        origin[2] + t * direction[2],
    )


@jit
def unit(a):
    return along(NOTHING, a, 1 / np.sqrt(dot(a, a)))


@jit
def distance(solid, p):
    """How far a point outside is from the solid's surface, and the normal there."""
    x, y, z = along(p, solid.position, -1.0)
    flat = solid.size - solid.edge
    if solid.cube:
        a, b = solid.cos * x + solid.sin * y, solid.cos * y - solid.sin * x
        a, b = a - min(max(a, -flat), flat), b - min(max(b, -flat), flat)
        x, y = solid.cos * a - solid.sin * b, solid.sin * a + solid.cos * b
    else:
        beyond = max(1 - flat / max(np.sqrt(x * x + y * y), 1e-9), 0.0)
        x, y = x * beyond, y * beyond
    z -= min(max(z, -flat), flat)
    length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
    return length - solid.edge, along(NOTHING, (x, y, z), 1 / length)


@jit
def hit(solid, origin, ray):
    """How far a ray (unit direction) goes before it meets the solid; infinity if it does not."""
    to = along(solid.position, origin, -1.0)
    middle = dot(to, ray)
    inside = solid.bound * solid.bound - dot(to, to) + middle * middle
    if inside <= 0.0 or middle + np.sqrt(inside) <= 0.0:
        return np.inf
    # The distance from a convex solid is convex along a ray, so that Newton's steps never go
    # too far: they either reach the surface or pass the point where the ray is nearest.
    t, gap = max(middle - np.sqrt(inside), 0.0), np.inf
    while gap > 1e-5:
        gap, normal = distance(solid, along(origin, ray, t))
        slope = dot(normal, ray)
        if slope >= 0.0:
            return np.inf
        t -= gap / slope
    return t


@jit
def nearest(solids, origin, ray, own):
    """The first solid on a ray from solid `own`, -1 for the ground or none, and how far it is."""
    first, t = -1, np.inf
    for j in range(len(solids)):
        there = hit(solids[j], origin, ray) if j != own else np.inf
        if there < t:
            first, t = j, there
    return first, t if first >= 0 or ray[2] >= 0.0 else -origin[2] / ray[2]


@jit
def ray_of(view, x, y, width, height):
    """The direction in which the camera sees point x, y of the image, pixels."""
    return unit(
        along(along(view[3], view[1], 2 * x / width - 1), view[2], 1 - 2 * y / height)
    )


@jit
def visible_solids(solids, view, width, height):
    """The solid that each pixel's middle shows, -1 for the ground: int64 (height, width)."""
    ids = np.empty((height, width), np.int64)
    for row, column in np.ndindex(height, width):
        ray = ray_of(view, column + 0.5, row + 0.5, width, height)
        ids[row, column] = nearest(solids, view[0], ray, -1)[0]
    return ids


@jit
def visible_fraction(solids, lamp, own, p, dither):
    """The fraction of a lamp visible from p on solid `own`, which, being convex, does not block it."""
    reach, between, blocked = along(lamp.position, p, -1.0), 0, 0
    spread, once = np.sqrt(2 * dot(lamp.up, lamp.up)), 1 / dot(reach, reach)
    for j in range(len(solids)):
        to = along(solids[j].position, p, -1.0)
        t = dot(to, reach) * once
        if (
            j != own
            and t > 0.0
            and (dot(to, to) - t * dot(to, reach) < (solids[j].bound + t * spread) ** 2)
        ):
            between |= 1 << j  # it touches the cone of light
    for s in range(
        16 if between else 0
    ):  # a point in each of 4x4 fields, the corners first
        a = (3 * (s & 1) ^ s >> 2 & 1) + dither
        b = (3 * (s >> 1 & 1) ^ s >> 3) + (7 * dither + 0.618 * s) % 1.0
        ray = unit(along(along(reach, lamp.right, a / 2 - 1), lamp.up, b / 2 - 1))
        for j in range(len(solids)):
            if between >> j & 1 and hit(solids[j], p, ray) < np.inf:
                blocked += 1
                break
        if s == 3 and blocked % 4 == 0:
            return 1.0 - blocked / 4
    return 1.0 - blocked / 16


@jit
def gloss(normal, ray, to, edge):
    """The fraction of a lamp's light that metal reflects (GGX, Walter et al., EGSR 2007)."""
    half, fraction = unit(along(to, ray, -1.0)), 0.0
    for alpha in (0.2, 0.02 + 0.004 / edge):  # sharp, but not finer than a pixel
        spread, k = dot(normal, half) ** 2 * (alpha * alpha - 1) + 1, alpha / 2
        shadow = (dot(normal, to) * (1 - k) + k) * (
            max(-dot(normal, ray), 0.0) * (1 - k) + k
        )
        fraction += alpha * alpha / (8 * np.pi * spread * spread * shadow)
    return fraction


@jit
def soft_light(solids, own, p, normal):
    """Sky light at p, less its occlusion by the solids (as spheres), plus their colour."""
    free, bled = max(dot(normal, SUN), 0.0), NOTHING
    free += 0.0024 * min(max(dot(p, BACK), 0.0), 18.0)
    for j in range(len(solids)):
        to = along(solids[j].position, p, -1.0)
        cosine, far = dot(normal, to), np.sqrt(dot(to, to))
        if j != own and cosine > 0.0 and far < 5 * solids[j].size:
            fraction = min(1.1 * cosine * solids[j].size ** 2 / far**3, 1.0)
            free *= 1 - 0.7 * fraction
            bled = along(bled, solids[j].color, 0.4 * fraction * (1 - fraction))
    return bled[0] + free, bled[1] + free, bled[2] + free


@jit
def shade(solids, lamps, own, p, ray, dither, mirrored):
    """The light that solid `own` (-1: the ground) reflects at p, the `mirrored` light if it is metal."""
    normal, color, metal, rim = (0.0, 0.0, 1.0), (0.8, 0.8, 0.8), False, 0.0
    if own >= 0:
        normal, color = (
            distance(solids[own], p)[1],
            along(NOTHING, solids[own].color, 1.0),
        )
        metal, rim = solids[own].metal, 0.07 * (1 + dot(normal, ray)) ** 5
    light = mirrored if metal else soft_light(solids, own, p, normal)
    for k in range(len(lamps)):
        reach = along(lamps[k].position, p, -1.0)
        to = unit(reach)
        fraction = (
            0.0 if metal else 0.15 * max(to[2], 0.0) * (1 - normal[2])
        )  # from the ground
        if dot(normal, to) > 0.0:
            back = gloss(normal, ray, to, solids[own].edge) if metal else 0.3
            fraction += (
                dot(normal, to)
                * back
                * visible_fraction(solids, lamps[k], own, p, dither)
            )
        fraction *= max(-dot(to, lamps[k].forward), 0.0) / dot(reach, reach)
        light = along(light, lamps[k].power, fraction)
    return (
        color[0] * light[0] + rim,
        color[1] * light[1] + rim,
        color[2] * light[2] + rim,
    )


@jit
def radiance(solids, lamps, eye, ray, dither):
    """The light that comes along a ray to the camera."""
    own, t = nearest(solids, eye, ray, -1)
    p, mirrored = along(eye, ray, t), NOTHING
    if own >= 0 and solids[own].metal:
        normal = distance(solids[own], p)[1]
        mirror = along(ray, normal, -2 * dot(ray, normal))
        first, t = nearest(solids, p, mirror, own)
        # Where no solid is, and for the blur: the ground, or where it curves up.
        gray = max(
            0.2 * min(max(0.37 - mirror[2] / 0.6, 0.0), 1.0),
            0.01 + 0.085 * min(max((dot(mirror, BACK) - 0.45) / 0.3, 0.0), 1.0),
        )
        sharp = blur = (gray, gray, gray)
        if t < np.inf:
            sharp = shade(
                solids, lamps, first, along(p, mirror, t), mirror, dither, blur
            )
        mirrored = along(along(NOTHING, blur, 0.3), sharp, 0.6)
    return shade(solids, lamps, own, p, ray, dither, mirrored)


@jit
def trace(solids, lamps, view, width, height):
    """The light of every pixel, 0 to 1, float32 (height, width, 3); dither after Jimenez, 2014."""
    ids, light = (
        visible_solids(solids, view, width, height),
        np.zeros((height, width, 3), np.float32),
    )
    for row, column in np.ndindex(height, width):
        same = (
            ids[max(row - 1, 0), column]
            == ids[row, column]
            == ids[row, max(column - 1, 0)]
            == ids[min(row + 1, height - 1), column]
            == ids[row, min(column + 1, width - 1)]
        )
        rays = 1 if same else 2  # along each side of the pixel
        dither = 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0
        for s in range(rays * rays):
            x, y = column + (s % rays + 0.5) / rays, row + (s // rays + 0.5) / rays
            color = radiance(
                solids, lamps, view[0], ray_of(view, x, y, width, height), dither
            )
            for c in range(3):
                light[row, column, c] += min(color[c], 1.0) / (rays * rays)
    return light
