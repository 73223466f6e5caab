"""Draws a scene as CLEVR does (Johnson et al., CVPR 2017, appendix): an analytic ray tracer of
cubes, spheres and cylinders on a light grey ground.

Light is linear, 1 is white, and a colour is the share of light that a surface returns. Points,
directions and colours are tuples of three numbers."""

from typing import NamedTuple

import numpy as np
from numba import njit

WIDTH, HEIGHT = 480, 320                            # CLEVR's picture, pixels
LENS_X, LENS_Y = 16 / 35, 16 / 35 / 1.5             # half the film over the focal length
SIZES = {"large": 0.7, "small": 0.35}               # half edge, radius, half height
COLORS = {"gray": (87, 87, 87), "red": (173, 35, 35), "blue": (42, 75, 215),
          "green": (29, 105, 20), "brown": (129, 74, 25), "purple": (129, 38, 192),
          "cyan": (41, 208, 208), "yellow": (255, 238, 51)}
SHAPES = {"cube": 0, "sphere": 1, "cylinder": 2}
CUBE, SPHERE, CYLINDER = 0, 1, 2
MATERIALS = ("rubber", "metal")
EDGE = 0.09                                         # radius of the rounded edges over the size
SOLID = np.dtype([(name, "f8") for name in
                  "x y z size edge bound cos sin red green blue".split()]
                 + [("shape", "i8"), ("metal", "i8")])
LAMPS = ((0.5, 78.5, (1, 0.932, 0.817)),            # key, back, fill: side, watts, colour
         (1.0, 39.3, (1, 1, 1)), (0.5, 23.6, (0.762, 0.818, 1)))
SUN, SKY = (0.4145, -0.1946, 0.889), 0.161          # where the sun's soft light comes from
GROUND = 0.8                                        # its colour, a grey
ORIGIN, NORTH = (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)
jit = njit(cache=True, error_model="numpy")


class Lamp(NamedTuple):
    """A square lamp: its middle, its half edges, where it faces, its power by colour over pi."""

    place: tuple
    right: tuple
    up: tuple
    forward: tuple
    power: tuple
    spread: float


def camera_axes(camera):
    """Right, up and forward of a camera at `camera` that looks at the origin, z up: (3,) each."""
    forward = -camera / np.linalg.norm(camera)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def project(point, camera, width=WIDTH, height=HEIGHT):
    """Where a point (3,) falls in the picture: x, y in pixels from the top left corner, and its
    depth along the line of sight."""
    right, up, forward = camera_axes(camera)
    seen = np.asarray(point) - camera
    depth = seen @ forward
    return (width / 2 * (1 + seen @ right / depth / LENS_X),
            height / 2 * (1 - seen @ up / depth / LENS_Y), depth)


def visible_pixels(objects, rig):
    """How many pixels each object shows at 480x320, the others before it left out: (n,) int64."""
    ids, _ = first_hits(solids_of(objects), frame(rig.camera), WIDTH, HEIGHT)
    return np.bincount(ids[ids >= 0], minlength=len(objects))


def render(objects, rig, width=WIDTH, height=HEIGHT):
    """The picture of a scene, uint8 (height, width, 3), sRGB: the same bytes for the same scene."""
    light = trace(solids_of(objects), lamps_of(rig), frame(rig.camera), width, height)
    srgb = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def frame(camera):
    """The camera, half the width and half the height of its film, and where it looks."""
    right, up, forward = camera_axes(camera)
    return tuple(tuple(v.tolist()) for v in (camera, right * LENS_X, up * LENS_Y, forward))


def lamps_of(rig):
    """The three lamps of a rig; they look at the origin."""
    lamps = []
    for place, (side, watts, color) in zip((rig.key, rig.back, rig.fill), LAMPS):
        right, up, forward = camera_axes(place)
        vectors = (place, right * side / 2, up * side / 2, forward, np.multiply(color, watts / np.pi))
        lamps.append(Lamp(*(tuple(v.tolist()) for v in vectors), side / 2 ** 0.5))
    return tuple(lamps)


def solids_of(objects):
    """The official object dicts as an array of SOLID."""
    solids = np.zeros(len(objects), SOLID)
    for solid, thing in zip(solids, objects):
        size, angle = SIZES[thing["size"]], np.deg2rad(thing["rotation"])
        shape = SHAPES[thing["shape"]]
        edge = size if shape == SPHERE else EDGE * size
        corner = (size - edge) * (3 if shape == CUBE else 2) ** 0.5
        solid["x"], solid["y"], solid["z"] = thing["3d_coords"]
        solid["red"], solid["green"], solid["blue"] = np.divide(COLORS[thing["color"]], 255)
        for name, value in (("size", size), ("edge", edge), ("bound", corner + edge),
                            ("cos", np.cos(angle)), ("sin", np.sin(angle)), ("shape", shape),
                            ("metal", MATERIALS.index(thing["material"]))):
            solid[name] = value
    return solids


@jit
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def along(origin, direction, t):
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


@jit
def unit(a):
    return along(ORIGIN, a, 1 / np.sqrt(dot(a, a)))


@jit
def distance(solid, x, y, z):
    """Distance of a point outside (in the solid's own axes) from its surface, and the normal."""
    flat = solid.size - solid.edge
    if solid.shape == CUBE:
        nx = x - min(max(x, -flat), flat)
        ny = y - min(max(y, -flat), flat)
    else:
        around = np.sqrt(x * x + y * y)
        beyond = max(around - flat, 0.0) / max(around, 1e-9)
        nx, ny = x * beyond, y * beyond
    nz = z - min(max(z, -flat), flat)
    length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
    return length - solid.edge, nx / length, ny / length, nz / length


@jit
def normal_at(solid, p):
    x, y, z = p[0] - solid.x, p[1] - solid.y, p[2] - solid.z
    if solid.shape == SPHERE:
        return unit((x, y, z))
    _, nx, ny, nz = distance(solid, solid.cos * x + solid.sin * y, solid.cos * y - solid.sin * x, z)
    return solid.cos * nx - solid.sin * ny, solid.sin * nx + solid.cos * ny, nz


@jit
def hit(solid, origin, direction):
    """How far a ray (unit direction) goes before it meets the solid; infinity if it does not."""
    dx, dy, dz = direction
    x, y, z = origin[0] - solid.x, origin[1] - solid.y, origin[2] - solid.z
    middle = -(x * dx + y * dy + z * dz)
    inside = solid.bound * solid.bound - (x * x + y * y + z * z) + middle * middle
    if inside <= 0.0:
        return np.inf
    near, far = middle - np.sqrt(inside), middle + np.sqrt(inside)
    if far <= 0.0 or (solid.shape == SPHERE and near <= 0.0):
        return np.inf
    if solid.shape == SPHERE:
        return near
    x, y = solid.cos * x + solid.sin * y, solid.cos * y - solid.sin * x
    dx, dy = solid.cos * dx + solid.sin * dy, solid.cos * dy - solid.sin * dx
    # The distance from a convex solid is convex along a ray, so that Newton's steps never go
    # too far: they either reach the surface or pass the point where the ray is nearest.
    t = max(near, 0.0)
    for _ in range(16):
        gap, nx, ny, nz = distance(solid, x + t * dx, y + t * dy, z + t * dz)
        slope = nx * dx + ny * dy + nz * dz
        if slope >= 0.0:
            return np.inf
        t -= gap / slope
        if gap < 1e-5:
            break
    return t


@jit
def ray_of(view, x, y, width, height):
    """The direction in which the camera sees point x, y of the picture, pixels."""
    film = along(view[3], view[1], 2 * x / width - 1)
    return unit(along(film, view[2], 1 - 2 * y / height))


@jit
def first_hits(solids, view, width, height):
    """The solid that each pixel's ray meets first (-1: none) and how far away: (height, width)."""
    ids, depths = np.full((height, width), -1), np.full((height, width), np.inf)
    for i in range(len(solids)):
        to = along((solids[i].x, solids[i].y, solids[i].z), view[0], -1.0)
        depth = dot(to, view[3])
        # right and up carry the film's half width and height: over their squares they give -1..1
        a, b = dot(to, view[1]) / LENS_X ** 2 / depth, dot(to, view[2]) / LENS_Y ** 2 / depth
        reach = solids[i].bound / (depth - solids[i].bound)
        da, db = reach * (1 / LENS_X + abs(a)), reach * (1 / LENS_Y + abs(b))
        for row in range(max(0, int((1 - b - db) * height / 2)),
                         min(height, int((1 - b + db) * height / 2) + 1)):
            for column in range(max(0, int((1 + a - da) * width / 2)),
                                min(width, int((1 + a + da) * width / 2) + 1)):
                t = hit(solids[i], view[0], ray_of(view, column + 0.5, row + 0.5, width, height))
                if t < depths[row, column]:
                    ids[row, column], depths[row, column] = i, t
    return ids, depths


@jit
def nearest(solids, origin, direction, own):
    """The first solid on a ray from solid `own` (-1: the ground or nothing), and how far away."""
    first, t = -1, np.inf
    for j in range(len(solids)):
        there = hit(solids[j], origin, direction) if j != own else np.inf
        if there < t:
            first, t = j, there
    return first, t if first >= 0 or direction[2] >= 0.0 else -origin[2] / direction[2]


@jit
def open_to(solids, lamp, between, p, a, b):
    """Whether point (a, b), -1..1 each, of a lamp is seen from p past the solids `between`."""
    spot = along(along(lamp.place, lamp.right, a), lamp.up, b)
    direction = unit(along(spot, p, -1.0))
    for j in range(len(solids)):
        if between >> j & 1 and hit(solids[j], p, direction) < np.inf:
            return False
    return True


@jit
def seen_share(solids, lamp, own, p, dither):
    """The share of a lamp that is seen from p on solid `own`, which, convex, is not in the way."""
    reach = along(lamp.place, p, -1.0)
    far = np.sqrt(dot(reach, reach))
    between = 0                     # a bit for every solid that touches the cone to the lamp
    for j in range(len(solids)):
        to = along((solids[j].x, solids[j].y, solids[j].z), p, -1.0)
        t = dot(to, reach) / far
        wide = solids[j].bound + lamp.spread * t / far
        if j != own and t > 0.0 and dot(to, to) - t * t < wide * wide:
            between |= 1 << j
    if between == 0:
        return 1.0
    corners = 0
    for s in range(4):
        corners += open_to(solids, lamp, between, p, 2.0 * (s % 2) - 1, 2.0 * (s // 2) - 1)
    if corners == 0 or corners == 4:
        return corners / 4
    seen = 0
    for s in range(16):
        a, b = s % 4 + dither, s // 4 + (7 * dither + 0.618 * s) % 1.0
        seen += open_to(solids, lamp, between, p, a / 2 - 1, b / 2 - 1)
    return seen / 16


@jit
def ggx(normal, half, alpha):
    """The lobe of a rough mirror (Walter et al., EGSR 2007) over four."""
    spread = dot(normal, half) ** 2 * (alpha * alpha - 1) + 1
    return alpha * alpha / (4 * np.pi * spread * spread)


@jit
def haze(solids, own, p, mirror):
    """What a rough mirror shows around direction `mirror`: ground, and solids as blurred balls."""
    floor = 0.05 + 0.17 * min(max(0.5 - mirror[2] / 0.7, 0.0), 1.0)
    color = (floor, floor, floor)
    for j in range(len(solids)):
        if j != own:
            to = along((solids[j].x, solids[j].y, solids[j].z), p, -1.0)
            far = np.sqrt(dot(to, to))
            angle = np.arccos(min(max(dot(to, mirror) / far, -1.0), 1.0))
            share = min(max((1.05 * solids[j].size / far - angle) / 0.5 + 0.5, 0.0), 1.0)
            image = (solids[j].red, solids[j].green, solids[j].blue)
            color = along(along(ORIGIN, color, 1 - share), image, 0.25 * share)
    return color


@jit
def shade(solids, lamps, own, p, ray, dither, mirrors):
    """The light that solid `own` (-1: the ground) at p sends back along a ray."""
    normal, color, metal = NORTH, (GROUND, GROUND, GROUND), 0
    if own >= 0:
        normal, metal = normal_at(solids[own], p), solids[own].metal
        color = (solids[own].red, solids[own].green, solids[own].blue)
    free, bled = 1.0, ORIGIN
    for j in range(len(solids)):
        to = along((solids[j].x, solids[j].y, solids[j].z), p, -1.0)
        cosine = dot(normal, to)
        if j != own and cosine > 0.0:
            square = dot(to, to)
            share = cosine * 1.1 * solids[j].size ** 2 / (square * np.sqrt(square))
            share = 0.7 * min(share, 1.0)
            free *= 1 - share
            bled = along(bled, (solids[j].red, solids[j].green, solids[j].blue), 0.4 * share)
    sky = free * SKY * max(dot(normal, SUN), 0.0)
    if own < 0:
        sky *= 1 + 0.016 * max(0.66 * p[1] - 0.75 * p[0], 0.0)
    soft, gloss = along(bled, (1.0, 1.0, 1.0), sky), ORIGIN
    mirror = along(ray, normal, -2 * dot(ray, normal))
    for k in range(len(lamps)):
        reach = along(lamps[k].place, p, -1.0)
        to = unit(reach)
        power = -dot(to, lamps[k].forward) / dot(reach, reach)
        bounce = 0.35 * GROUND * max(to[2], 0.0) * (1 - normal[2]) * free / np.pi
        soft = along(soft, lamps[k].power, power * bounce)
        cosine = dot(normal, to)
        if cosine > 0.0:
            power *= cosine * seen_share(solids, lamps[k], own, p, dither)
            soft = along(soft, lamps[k].power, power / np.pi)
            if own >= 0:
                half = unit(along(to, ray, -1.0))
                lobe = 0.4 * ggx(normal, half, 0.2) + 0.5 * ggx(normal, half, 0.04) if metal else \
                    0.03 * ggx(normal, half, 0.3)
                gloss = along(gloss, lamps[k].power, power * lobe)
    if metal:
        gloss = along(gloss, haze(solids, own, p, mirror), 0.4 if mirrors else 0.9)
        if mirrors:
            first, far = nearest(solids, p, mirror, own)
            if far < np.inf:
                image = shade(solids, lamps, first, along(p, mirror, far), mirror, dither, False)
                gloss = along(gloss, image, 0.5)
        return color[0] * gloss[0], color[1] * gloss[1], color[2] * gloss[2]
    return (color[0] * soft[0] + gloss[0], color[1] * soft[1] + gloss[1],
            color[2] * soft[2] + gloss[2])


@jit
def trace(solids, lamps, view, width, height):
    """The light of every pixel, 0 to 1: float64 (height, width, 3)."""
    ids, depths = first_hits(solids, view, width, height)
    light = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            own = ids[row, column]
            dither = 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0
            edge = (own != ids[max(row - 1, 0), column] or own != ids[row, max(column - 1, 0)]
                    or own != ids[min(row + 1, height - 1), column]
                    or own != ids[row, min(column + 1, width - 1)])
            rays = 2 if edge else 1
            for s in range(rays * rays):
                x, y = column + (s % rays + 0.5) / rays, row + (s // rays + 0.5) / rays
                ray = ray_of(view, x, y, width, height)
                t = depths[row, column]
                if edge:
                    own, t = nearest(solids, view[0], ray, -1)
                elif own < 0:
                    t = -view[0][2] / ray[2]
                color = shade(solids, lamps, own, along(view[0], ray, t), ray, dither, True)
                for c in range(3):
                    light[row, column, c] += min(color[c], 1.0) / (rays * rays)
    return light
