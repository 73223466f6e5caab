"""Renders a scene in CLEVR's style (Johnson et al., CVPR 2017, appendix) by ray
tracing. Light is linear, and 1 is white."""

import numpy as np
from numba import njit

# CLEVR's scene.
WIDTH = 480  # pixels
HEIGHT = 320
LENS_X = 16 / 35  # half the film's width over the focal length
LENS_Y = 16 / 35 / 1.5
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
EDGES = {"cube": 0.18, "sphere": 1.0, "cylinder": 0.08}  # their radius over the size
LAMPS = (
    (0.25, 78.5, (1, 0.932, 0.817)),  # key: half side, watts, colour
    (0.5, 39.3, (1, 1, 1)),  # back
    (0.25, 23.6, (0.762, 0.818, 1)),  # fill
)
GROUND = (0.8, 0.8, 0.8)  # colour
GROUND_RISE = (-0.917, 0.396, 0.0)  # the direction in which, far away, it curves up

# Fitted to images by Blender's Cycles, CLEVR's own renderer.
SUN = (0.067, -0.031, 0.143)  # direction times intensity; soft, it casts no shadow
RISE_LIGHT = 0.0024  # added to it by a unit of distance along GROUND_RISE
RISE_END = 18.0  # the distance at which this ends
OCCLUSION_REACH = 5  # a solid hides the sky up to this distance over its size
OCCLUSION_WIDTH = 1.1  # the fraction of the sky that it hides, over its projected size
OCCLUSION_DEPTH = 0.7  # the light that is lost there
BLEEDING = 0.4  # the light that its colour gives there
DIFFUSE = 0.3  # the fraction of a lamp's light that rubber and the ground reflect
BOUNCE = 0.15  # the fraction that reaches rubber by way of the ground
RIM = 0.07  # gloss of all solids where they are seen edgeways
RIM_POWER = 5
ROUGH = 0.2  # metal's two lobes (GGX): their widths
SHARP = 0.02
SHARP_OF_EDGE = 0.004  # over the radius of the edge: no highlight finer than a pixel
MIRROR = 0.6  # the fraction of metal's light that comes from where it mirrors,
BLUR = 0.3  # and that from all around there
FLOOR_LIGHT = 0.2  # what metal mirrors of the ground,
FLOOR_END = 0.37  # which fades with the mirrored direction's height
FLOOR_FADE = 0.6
FAR_LIGHT = 0.085  # what it mirrors of the rise,
FAR_BEGIN = 0.45  # by the cosine to its direction
FAR_FADE = 0.3
DARK_LIGHT = 0.01  # what it mirrors of all else

# Shadow rays go to a point in each of a lamp's 4x4 fields, the corners first.
FIELD_COLUMNS = (0, 3, 0, 3, 1, 2, 1, 2, 0, 3, 0, 3, 1, 2, 1, 2)
FIELD_ROWS = (0, 0, 3, 3, 0, 0, 3, 3, 1, 1, 2, 2, 1, 1, 2, 2)

SOLID = np.dtype(
    [
        ("position", "f8", 3),
        ("color", "f8", 3),
        ("cube", "?"),
        ("metal", "?"),
        ("size", "f8"),
        ("edge", "f8"),
        ("bound", "f8"),
        ("cos", "f8"),
        ("sin", "f8"),
    ]
)
LAMP = np.dtype(
    [
        ("position", "f8", 3),
        ("right", "f8", 3),
        ("up", "f8", 3),
        ("forward", "f8", 3),
        ("power", "f8", 3),
    ]
)
NOTHING = (0.0, 0.0, 0.0)
jit = njit(cache=True, error_model="numpy")


def camera_axes(camera):
    """Right, up and forward of a camera at `camera` that looks at the origin, z up:
    (3,) each."""
    forward = -camera / np.linalg.norm(camera)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def render(objects, rig, width=WIDTH, height=HEIGHT):
    """The image of a scene, uint8 (height, width, 3), sRGB: the same bytes for the same
    scene."""
    light = trace(solids_of(objects), lamps_of(rig), view_of(rig.camera), width, height)
    srgb = np.where(
        light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    return np.rint(255 * srgb).astype(np.uint8)


def view_of(camera):
    """The camera, half the width and half the height of its film, and where it looks: a
    tuple of four points, each a tuple of three floats."""
    right, up, forward = camera_axes(camera)
    return tuple(
        tuple(point.tolist())
        for point in (camera, right * LENS_X, up * LENS_Y, forward)
    )


def lamps_of(rig):
    """The three lamps, squares that look at the origin: (3,) LAMP, power over pi."""
    lamps = np.empty(3, LAMP)
    positions = (rig.key, rig.back, rig.fill)
    for lamp, position, (half, watts, color) in zip(
        lamps, positions, LAMPS, strict=True
    ):
        right, up, forward = camera_axes(position)
        lamp["position"] = position
        lamp["right"] = right * half
        lamp["up"] = up * half
        lamp["forward"] = forward
        lamp["power"] = np.multiply(color, watts / np.pi)
    return lamps


def solids_of(objects):
    """The official dicts of n objects: (n,) SOLID."""
    solids = np.empty(len(objects), SOLID)
    for solid, thing in zip(solids, objects, strict=True):
        size = SIZES[thing["size"]]
        edge = EDGES[thing["shape"]] * size
        cube = thing["shape"] == "cube"
        angle = np.deg2rad(thing["rotation"])
        solid["position"] = thing["3d_coords"]
        solid["color"] = np.divide(COLORS[thing["color"]], 255)
        solid["cube"] = cube
        solid["metal"] = thing["material"] == "metal"
        solid["size"] = size
        solid["edge"] = edge
        solid["bound"] = edge + (size - edge) * (3 if cube else 2) ** 0.5
        solid["cos"] = np.cos(angle)
        solid["sin"] = np.sin(angle)
    return solids


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
        a = solid.cos * x + solid.sin * y
        b = solid.cos * y - solid.sin * x
        a -= min(max(a, -flat), flat)
        b -= min(max(b, -flat), flat)
        x = solid.cos * a - solid.sin * b
        y = solid.sin * a + solid.cos * b
    else:
        beyond = max(1 - flat / max(np.sqrt(x * x + y * y), 1e-9), 0.0)
        x *= beyond
        y *= beyond
    z -= min(max(z, -flat), flat)
    length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
    return length - solid.edge, along(NOTHING, (x, y, z), 1 / length)


@jit
def hit(solid, origin, ray):
    """How far a ray (unit direction) goes before it meets the solid; infinity if it
    does not."""
    to = along(solid.position, origin, -1.0)
    middle = dot(to, ray)
    inside = solid.bound * solid.bound - dot(to, to) + middle * middle
    if inside <= 0.0 or middle + np.sqrt(inside) <= 0.0:
        return np.inf
    # The distance from a convex solid is convex along a ray, so Newton's steps never go
    # too far: they reach the surface or pass the point where the ray is nearest.
    t = max(middle - np.sqrt(inside), 0.0)
    gap = np.inf
    while gap > 1e-5:
        gap, normal = distance(solid, along(origin, ray, t))
        slope = dot(normal, ray)
        if slope >= 0.0:
            return np.inf
        t -= gap / slope
    return t


@jit
def nearest(solids, origin, ray, own):
    """The first solid on a ray from solid `own`, -1 for the ground or none, and how far
    it is."""
    first = -1
    t = np.inf
    for j in range(len(solids)):
        if j != own:
            there = hit(solids[j], origin, ray)
            if there < t:
                first = j
                t = there
    if first < 0 and ray[2] < 0.0:
        t = -origin[2] / ray[2]
    return first, t


@jit
def ray_of(view, x, y, width, height):
    """The direction in which the camera sees point x, y of the image, pixels."""
    return unit(
        along(along(view[3], view[1], 2 * x / width - 1), view[2], 1 - 2 * y / height)
    )


@jit
def visible_solids(solids, view, width, height):
    """The solid that each pixel's middle shows, -1 for the ground: int64 (height,
    width)."""
    ids = np.empty((height, width), np.int64)
    for row, column in np.ndindex(height, width):
        ray = ray_of(view, column + 0.5, row + 0.5, width, height)
        ids[row, column] = nearest(solids, view[0], ray, -1)[0]
    return ids


@jit
def solids_between(solids, lamp, own, p):
    """The solids that may block a lamp from p on solid `own`, which, being convex, does
    not: a bit set of those that touch the cone of light."""
    reach = along(lamp.position, p, -1.0)
    spread = np.sqrt(2 * dot(lamp.up, lamp.up))
    once = 1 / dot(reach, reach)
    between = 0
    for j in range(len(solids)):
        to = along(solids[j].position, p, -1.0)
        t = dot(to, reach) * once
        bound = solids[j].bound + t * spread
        if j != own and t > 0.0 and dot(to, to) - t * dot(to, reach) < bound**2:
            between |= 1 << j
    return between


@jit
def is_blocked(solids, between, p, ray):
    """Whether one of the solids in the bit set `between` is on a ray."""
    for j in range(len(solids)):
        if between >> j & 1 and hit(solids[j], p, ray) < np.inf:
            return True
    return False


@jit
def visible_fraction(solids, lamp, own, p, dither):
    """The fraction of a lamp visible from p on solid `own`."""
    between = solids_between(solids, lamp, own, p)
    if not between:
        return 1.0
    reach = along(lamp.position, p, -1.0)
    blocked = 0
    for s in range(16):
        a = FIELD_COLUMNS[s] + dither
        b = FIELD_ROWS[s] + (7 * dither + 0.618 * s) % 1.0
        ray = unit(along(along(reach, lamp.right, a / 2 - 1), lamp.up, b / 2 - 1))
        if is_blocked(solids, between, p, ray):
            blocked += 1
        if s == 3 and blocked % 4 == 0:
            return 1.0 - blocked / 4
    return 1.0 - blocked / 16


@jit
def gloss(normal, ray, to, edge):
    """The fraction of a lamp's light that metal reflects (GGX, Walter et al., EGSR
    2007)."""
    half = unit(along(to, ray, -1.0))
    fraction = 0.0
    for alpha in (ROUGH, SHARP + SHARP_OF_EDGE / edge):
        spread = dot(normal, half) ** 2 * (alpha * alpha - 1) + 1
        k = alpha / 2
        shadow = (dot(normal, to) * (1 - k) + k) * (
            max(-dot(normal, ray), 0.0) * (1 - k) + k
        )
        fraction += alpha * alpha / (8 * np.pi * spread * spread * shadow)
    return fraction


@jit
def soft_light(solids, own, p, normal):
    """Sky light at p, less its occlusion by the solids (as spheres), plus their
    colour."""
    free = max(dot(normal, SUN), 0.0)
    free += RISE_LIGHT * min(max(dot(p, GROUND_RISE), 0.0), RISE_END)
    bled = NOTHING
    for j in range(len(solids)):
        to = along(solids[j].position, p, -1.0)
        cosine = dot(normal, to)
        far = np.sqrt(dot(to, to))
        if j != own and cosine > 0.0 and far < OCCLUSION_REACH * solids[j].size:
            fraction = min(OCCLUSION_WIDTH * cosine * solids[j].size ** 2 / far**3, 1.0)
            free *= 1 - OCCLUSION_DEPTH * fraction
            bled = along(bled, solids[j].color, BLEEDING * fraction * (1 - fraction))
    return bled[0] + free, bled[1] + free, bled[2] + free


@jit
def lamp_light(solids, lamp, own, p, normal, ray, dither):
    """The fraction of a lamp's power that p on solid `own` reflects."""
    metal = own >= 0 and solids[own].metal
    reach = along(lamp.position, p, -1.0)
    to = unit(reach)
    fraction = 0.0
    if not metal:
        fraction = BOUNCE * max(to[2], 0.0) * (1 - normal[2])
    if dot(normal, to) > 0.0:
        back = gloss(normal, ray, to, solids[own].edge) if metal else DIFFUSE
        visible = visible_fraction(solids, lamp, own, p, dither)
        fraction += dot(normal, to) * back * visible
    return fraction * (max(-dot(to, lamp.forward), 0.0) / dot(reach, reach))


@jit
def shade(solids, lamps, own, p, ray, dither, mirrored):
    """The light that solid `own` (-1: the ground) reflects at p, the `mirrored` light
    if it is metal."""
    normal = (0.0, 0.0, 1.0)
    color = GROUND
    rim = 0.0
    if own >= 0:
        normal = distance(solids[own], p)[1]
        color = along(NOTHING, solids[own].color, 1.0)
        rim = RIM * (1 + dot(normal, ray)) ** RIM_POWER
    if own >= 0 and solids[own].metal:
        light = mirrored
    else:
        light = soft_light(solids, own, p, normal)
    for k in range(len(lamps)):
        fraction = lamp_light(solids, lamps[k], own, p, normal, ray, dither)
        light = along(light, lamps[k].power, fraction)
    return (
        color[0] * light[0] + rim,
        color[1] * light[1] + rim,
        color[2] * light[2] + rim,
    )


@jit
def surroundings(ray):
    """What metal mirrors where no solid is: the ground, or where it curves up."""
    floor = min(max(FLOOR_END - ray[2] / FLOOR_FADE, 0.0), 1.0)
    far = min(max((dot(ray, GROUND_RISE) - FAR_BEGIN) / FAR_FADE, 0.0), 1.0)
    gray = max(FLOOR_LIGHT * floor, DARK_LIGHT + FAR_LIGHT * far)
    return gray, gray, gray


@jit
def radiance(solids, lamps, eye, ray, dither):
    """The light that comes along a ray to the camera."""
    own, t = nearest(solids, eye, ray, -1)
    p = along(eye, ray, t)
    mirrored = NOTHING
    if own >= 0 and solids[own].metal:
        normal = distance(solids[own], p)[1]
        mirror = along(ray, normal, -2 * dot(ray, normal))
        first, t = nearest(solids, p, mirror, own)
        blur = surroundings(mirror)
        sharp = blur
        if t < np.inf:
            there = along(p, mirror, t)
            sharp = shade(solids, lamps, first, there, mirror, dither, blur)
        mirrored = along(along(NOTHING, blur, BLUR), sharp, MIRROR)
    return shade(solids, lamps, own, p, ray, dither, mirrored)


@jit
def same_around(ids, row, column):
    """Whether a pixel and its four neighbours show the same solid."""
    height, width = ids.shape
    return (
        ids[max(row - 1, 0), column]
        == ids[row, column]
        == ids[row, max(column - 1, 0)]
        == ids[min(row + 1, height - 1), column]
        == ids[row, min(column + 1, width - 1)]
    )


@jit
def trace(solids, lamps, view, width, height):
    """The light of every pixel, 0 to 1: float32 (height, width, 3)."""
    ids = visible_solids(solids, view, width, height)
    light = np.zeros((height, width, 3), np.float32)
    for row, column in np.ndindex(height, width):
        rays = 1 if same_around(ids, row, column) else 2  # along each side of the pixel
        # Interleaved gradient noise (Jimenez, 2014).
        dither = 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0
        for s in range(rays * rays):
            x = column + (s % rays + 0.5) / rays
            y = row + (s // rays + 0.5) / rays
            ray = ray_of(view, x, y, width, height)
            color = radiance(solids, lamps, view[0], ray, dither)
            for c in range(3):
                light[row, column, c] += min(color[c], 1.0) / (rays * rays)
    return light
