"""Draws a scene as CLEVR does (Johnson et al., CVPR 2017, appendix): an analytic ray tracer of
cubes, spheres and cylinders on a light grey ground. Vectors and colours are tuples of three numbers; light is linear, and 1 is white."""

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
EDGE = (0.18, 1.0, 0.08)                            # radius of the edges over the size, by shape
SOLID = np.dtype([("place", "f8", 3), ("color", "f8", 3)]
                 + [(name, "f8") for name in ("size", "edge", "bound", "cos", "sin")]
                 + [("shape", "i8"), ("metal", "i8")])
LAMPS = ((0.5, 78.5, (1, 0.932, 0.817)),            # key, back, fill: side, watts, colour
         (1.0, 39.3, (1, 1, 1)), (0.5, 23.6, (0.762, 0.818, 1)))
LAMP = np.dtype([(name, "f8", 3) for name in ("place", "right", "up", "forward", "power")])
SUN = (0.067, -0.031, 0.143)                        # its direction, soft, times its light
BACK = (-0.917, 0.396, 0.0)                         # where, far away, the ground curves up
GROUND = (0.8, 0.8, 0.8)                            # its colour
NORTH = (0.0, 0.0, 1.0)
jit = njit(cache=True, error_model="numpy")


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
    ids, _ = first_hits(solids_of(objects), view_of(rig.camera), WIDTH, HEIGHT)
    return np.bincount(ids[ids >= 0], minlength=len(objects))


def render(objects, rig, width=WIDTH, height=HEIGHT):
    """The picture of a scene, uint8 (height, width, 3), sRGB: the same bytes for the same scene."""
    light = trace(solids_of(objects), lamps_of(rig), view_of(rig.camera), width, height)
    srgb = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def view_of(camera):
    """The camera, half the width and half the height of its film, and where it looks."""
    right, up, forward = camera_axes(camera)
    return tuple(tuple(v.tolist()) for v in (camera, right * LENS_X, up * LENS_Y, forward))


def lamps_of(rig):
    """The three lamps, squares that look at the origin, as an array of LAMP: half their edges,
    and over pi their power."""
    lamps = []
    for place, (side, watts, color) in zip((rig.key, rig.back, rig.fill), LAMPS):
        right, up, forward = camera_axes(place)
        power = np.multiply(color, watts / np.pi)
        lamps.append((place, right * side / 2, up * side / 2, forward, power))
    return np.array(lamps, LAMP)


def solids_of(objects):
    """The official object dicts as an array of SOLID."""
    solids = []
    for thing in objects:
        shape, size = SHAPES[thing["shape"]], SIZES[thing["size"]]
        edge = EDGE[shape] * size
        bound = edge + (size - edge) * (3 if shape == CUBE else 2) ** 0.5
        angle = np.deg2rad(thing["rotation"])
        solids.append((thing["3d_coords"], np.divide(COLORS[thing["color"]], 255), size, edge, bound,
                       np.cos(angle), np.sin(angle), shape, MATERIALS.index(thing["material"])))
    return np.array(solids, SOLID)


@jit
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def along(origin, direction, t):
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


@jit
def unit(a):
    return along((0.0, 0.0, 0.0), a, 1 / np.sqrt(dot(a, a)))


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
    x, y, z = along(p, solid.place, -1.0)
    _, nx, ny, nz = distance(solid, solid.cos * x + solid.sin * y, solid.cos * y - solid.sin * x, z)
    return solid.cos * nx - solid.sin * ny, solid.sin * nx + solid.cos * ny, nz


@jit
def hit(solid, origin, direction):
    """How far a ray (unit direction) goes before it meets the solid; infinity if it does not."""
    to = along(solid.place, origin, -1.0)
    middle = dot(to, direction)
    inside = solid.bound * solid.bound - dot(to, to) + middle * middle
    if inside <= 0.0:
        return np.inf
    t, far = middle - np.sqrt(inside), middle + np.sqrt(inside)
    if far <= 0.0 or (solid.shape == SPHERE and t <= 0.0):
        return np.inf
    if solid.shape == SPHERE:
        return t
    x, y, z = -solid.cos * to[0] - solid.sin * to[1], solid.sin * to[0] - solid.cos * to[1], -to[2]
    dx, dy, dz = direction
    dx, dy = solid.cos * dx + solid.sin * dy, solid.cos * dy - solid.sin * dx
    # The distance from a convex solid is convex along a ray, so that Newton's steps never go
    # too far: they either reach the surface or pass the point where the ray is nearest.
    t = max(t, 0.0)
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
def nearest(solids, origin, direction, own):
    """The first solid on a ray from solid `own`, -1 for the ground or none, and how far it is."""
    first, t = -1, np.inf
    for j in range(len(solids)):
        there = hit(solids[j], origin, direction) if j != own else np.inf
        if there < t:
            first, t = j, there
    return first, t if first >= 0 or direction[2] >= 0.0 else -origin[2] / direction[2]


@jit
def ray_of(view, x, y, width, height):
    """The direction in which the camera sees point x, y of the picture, pixels."""
    film = along(view[3], view[1], 2 * x / width - 1)
    return unit(along(film, view[2], 1 - 2 * y / height))


@jit
def first_hits(solids, view, width, height):
    """The solid that each pixel's ray meets first (-1: none) and how far away: (height, width)."""
    ids, depths = np.empty((height, width), np.int64), np.empty((height, width))
    for row in range(height):
        for column in range(width):
            ray = ray_of(view, column + 0.5, row + 0.5, width, height)
            ids[row, column], depths[row, column] = nearest(solids, view[0], ray, -1)
    return ids, depths


@jit
def seen_share(solids, lamp, own, p, dither):
    """The share of a lamp that is seen from p on solid `own`, which, convex, is not in the way."""
    reach = along(lamp.place, p, -1.0)
    far, between = np.sqrt(dot(reach, reach)), 0
    spread = np.sqrt(2 * dot(lamp.up, lamp.up)) / far
    for j in range(len(solids)):
        to = along(solids[j].place, p, -1.0)
        t = dot(to, reach) / far
        wide = solids[j].bound + spread * t
        if j != own and t > 0.0 and dot(to, to) - t * t < wide * wide:
            between |= 1 << j       # it touches the cone of light
    blocked = 0
    for s in range(20 if between else 0):
        if s == 4 and blocked % 4 == 0:
            return 1.0 - blocked / 4
        a, b = 4.0 * (s % 2), 2.0 * (s & 2)     # the four corners, and then a point in each field
        if s >= 4:
            blocked *= s > 4
            a, b = s % 4 + dither, s // 4 - 1 + (7 * dither + 0.618 * s) % 1.0
        spot = along(along(lamp.place, lamp.right, a / 2 - 1), lamp.up, b / 2 - 1)
        ray = unit(along(spot, p, -1.0))
        for j in range(len(solids)):
            if between >> j & 1 and hit(solids[j], p, ray) < np.inf:
                blocked += 1
                break
    return 1.0 - blocked / 16


@jit
def ggx(normal, ray, to, alpha):
    """How much of a lamp's light a rough mirror sends back (Walter et al., EGSR 2007), with
    Schlick's approximation of what its roughness hides."""
    half, k = unit(along(to, ray, -1.0)), alpha / 2
    spread = dot(normal, half) ** 2 * (alpha * alpha - 1) + 1
    hidden = (dot(normal, to) * (1 - k) + k) * (k - dot(normal, ray) * (1 - k))
    return alpha * alpha / (4 * np.pi * spread * spread * hidden)


@jit
def soft_light(solids, own, p, normal):
    """What p gets from the wide sky around the sun, less what solids, as balls, take of it, and
    from these solids themselves."""
    free, bled = max(dot(normal, SUN), 0.0), (0.0, 0.0, 0.0)
    for j in range(len(solids)):
        to = along(solids[j].place, p, -1.0)
        cosine = dot(normal, to)
        square = dot(to, to)
        if j != own and cosine > 0.0 and square < 25 * solids[j].size ** 2:
            share = min(1.1 * cosine * solids[j].size ** 2 / (square * np.sqrt(square)), 1.0)
            share *= np.sqrt(share)
            free *= 1 - 0.7 * share
            bled = along(bled, solids[j].color, 0.46 * share * (1 - share))
    return along(bled, (1.0, 1.0, 1.0), free)


@jit
def backdrop(ray):
    """The light that comes along a ray from where the ground curves up."""
    return 0.01 + 0.085 * min(max((dot(ray, BACK) - 0.45) / 0.3, 0.0), 1.0)


@jit
def haze(solids, own, p, mirror):
    """What a rough mirror shows around direction `mirror`: ground, and solids as blurred balls."""
    floor = max(0.2 * min(max(0.5 - mirror[2] / 0.7, 0.0), 1.0), backdrop(mirror))
    color = (floor, floor, floor)
    for j in range(len(solids)):
        if j != own:
            to = along(solids[j].place, p, -1.0)
            far = np.sqrt(dot(to, to))
            angle = np.arccos(min(max(dot(to, mirror) / far, -1.0), 1.0))
            share = min(max((1.05 * solids[j].size / far - angle) / 0.5 + 0.5, 0.0), 1.0)
            color = along(along(color, color, -share), solids[j].color, 0.25 * share)
    return color


@jit
def shade(solids, lamps, own, p, ray, dither, image, sharp):
    """The light that solid `own` (-1: the ground) at p sends back along a ray; metal shows an
    `image` of what lies around it by the share `sharp`."""
    normal, color, metal = NORTH, GROUND, 0
    if own >= 0:
        normal, metal = normal_at(solids[own], p), solids[own].metal
        color = along((0.0, 0.0, 0.0), solids[own].color, 1.0)
    if metal:
        blurred = haze(solids, own, p, along(ray, normal, -2 * dot(ray, normal)))
        soft = along(along(blurred, blurred, -sharp), image, sharp)
    else:
        soft = soft_light(solids, own, p, normal)
        if own < 0:
            soft = along(soft, (1.0, 1.0, 1.0), 0.0024 * max(dot(p, BACK), 0.0))
    rim = 0.0 if own < 0 or metal else 0.06 * (1 + dot(normal, ray)) ** 4
    gloss = (rim, rim, rim)
    for k in range(len(lamps)):
        reach = along(lamps[k].place, p, -1.0)
        to = unit(reach)
        power = -dot(to, lamps[k].forward) / dot(reach, reach)
        cosine = dot(normal, to)
        if not metal:       # what the ground sends up
            soft = along(soft, lamps[k].power, 0.15 * power * max(to[2], 0.0) * (1 - normal[2]))
        if cosine > 0.0:
            power *= cosine * seen_share(solids, lamps[k], own, p, dither)
            if metal:
                lobes = 0.5 * ggx(normal, ray, to, 0.2) + 0.5 * ggx(normal, ray, to, 0.02 + 0.003 / solids[own].edge)
                soft = along(soft, lamps[k].power, power * lobes)
            else:
                soft = along(soft, lamps[k].power, power / np.pi * (0.91 if own >= 0 else 1.0))
                if own >= 0:
                    gloss = along(gloss, lamps[k].power, power * 0.02 * ggx(normal, ray, to, 0.3))
    return (color[0] * soft[0] + gloss[0], color[1] * soft[1] + gloss[1],
            color[2] * soft[2] + gloss[2])


@jit
def trace(solids, lamps, view, width, height):
    """The light of every pixel, 0 to 1: float64 (height, width, 3)."""
    ids, depths = first_hits(solids, view, width, height)
    light = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            own, t = ids[row, column], depths[row, column]
            dither = 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0
            edge = (own != ids[max(row - 1, 0), column] or own != ids[row, max(column - 1, 0)]
                    or own != ids[min(row + 1, height - 1), column]
                    or own != ids[row, min(column + 1, width - 1)])
            rays = 2 if edge else 1
            for s in range(rays * rays):
                x, y = column + (s % rays + 0.5) / rays, row + (s // rays + 0.5) / rays
                ray = ray_of(view, x, y, width, height)
                if edge:
                    own, t = nearest(solids, view[0], ray, -1)
                p, image = along(view[0], ray, t), (0.0, 0.0, 0.0)
                if own >= 0 and solids[own].metal:
                    normal = normal_at(solids[own], p)
                    mirror = along(ray, normal, -2 * dot(ray, normal))
                    first, t = nearest(solids, p, mirror, own)
                    image = (backdrop(mirror), backdrop(mirror), backdrop(mirror))
                    if t < np.inf:
                        image = shade(solids, lamps, first, along(p, mirror, t), mirror, dither,
                                      image, 0.0)
                color = shade(solids, lamps, own, p, ray, dither, image, 0.45)
                for c in range(3):
                    light[row, column, c] += min(color[c], 1.0) / (rays * rays)
    return light
