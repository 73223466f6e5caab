"""Draws a scene as CLEVR does (Johnson et al., CVPR 2017, appendix): an analytic ray tracer of
cubes, spheres and cylinders on a light grey ground."""

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
         (1.0, 39.3, (1, 1, 1)), (0.5, 23.6, (0.762, 0.818, 1)),
         (1.0, 0.45 * np.pi * 1e4, (1, 1, 1)))      # the sun, as a lamp 100 away
SUN = (41.45, -19.46, 88.9)
LAMP = np.dtype([(f"{name}_{axis}", "f8") for name in "place right up forward power".split()
                 for axis in "xyz"] + [("spread", "f8")])
GROUND = 0.8                                        # its reflectance
ALPHA = 0.2                                         # GGX roughness of the gloss


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
    ids, _ = first_hits(solids_of(objects), *frame(rig.camera), WIDTH, HEIGHT)
    return np.bincount(ids[ids >= 0], minlength=len(objects))


def frame(camera):
    """The camera and the two edges and the middle of its film, as the kernels take them."""
    right, up, forward = camera_axes(camera)
    return np.asarray(camera, float), right * LENS_X, up * LENS_Y, forward


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


@njit(cache=True, error_model="numpy")
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


@njit(cache=True, error_model="numpy")
def hit(solid, ox, oy, oz, dx, dy, dz):
    """How far a ray (unit direction) goes before it meets the solid; infinity if it does not."""
    x, y, z = ox - solid.x, oy - solid.y, oz - solid.z
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


@njit(cache=True, error_model="numpy")
def first_hits(solids, camera, right, up, forward, width, height):
    """The solid that each pixel's ray meets first (-1: none) and how far away: (height, width)."""
    ids, depths = np.full((height, width), -1), np.full((height, width), np.inf)
    for i in range(len(solids)):
        solid = solids[i]
        sx, sy, sz = solid.x - camera[0], solid.y - camera[1], solid.z - camera[2]
        depth = sx * forward[0] + sy * forward[1] + sz * forward[2]
        # right and up carry the film's half width and height: over their squares they give -1..1
        a = (sx * right[0] + sy * right[1] + sz * right[2]) / LENS_X ** 2 / depth
        b = (sx * up[0] + sy * up[1] + sz * up[2]) / LENS_Y ** 2 / depth
        reach = solid.bound / (depth - solid.bound)
        da, db = reach * (1 / LENS_X + abs(a)), reach * (1 / LENS_Y + abs(b))
        for row in range(max(0, int((1 - b - db) * height / 2)),
                         min(height, int((1 - b + db) * height / 2) + 1)):
            for column in range(max(0, int((1 + a - da) * width / 2)),
                                min(width, int((1 + a + da) * width / 2) + 1)):
                u, v = (2 * column + 1) / width - 1, 1 - (2 * row + 1) / height
                dx = forward[0] + u * right[0] + v * up[0]
                dy = forward[1] + u * right[1] + v * up[1]
                dz = forward[2] + u * right[2] + v * up[2]
                scale = 1 / np.sqrt(dx * dx + dy * dy + dz * dz)
                t = hit(solid, camera[0], camera[1], camera[2], dx * scale, dy * scale, dz * scale)
                if t < depths[row, column]:
                    ids[row, column], depths[row, column] = i, t
    return ids, depths


def render(objects, rig, width=WIDTH, height=HEIGHT):
    """The picture of a scene: uint8 (height, width, 3), sRGB. Equal input gives equal bytes."""
    solids, view = solids_of(objects), frame(rig.camera)
    ids, depths = first_hits(solids, *view, width, height)
    light = trace(solids, lamps_of(rig), *view, ids, depths)
    srgb = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def lamps_of(rig):
    """The three lamps of the rig, squares that look at the origin, and the sun, as LAMP."""
    lamps = np.zeros(len(LAMPS), LAMP)
    places = (rig.key, rig.back, rig.fill, SUN)
    for lamp, place, (side, power, color) in zip(lamps, places, LAMPS):
        right, up, forward = camera_axes(np.asarray(place))
        for name, value in (("place", place), ("right", right * side / 2), ("up", up * side / 2),
                            ("forward", forward), ("power", np.multiply(color, power / np.pi))):
            for axis, number in zip("xyz", value):
                lamp[f"{name}_{axis}"] = number
        lamp["spread"] = side / 2 ** 0.5
    return lamps


@njit(cache=True, error_model="numpy")
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, error_model="numpy")
def along(origin, direction, t):
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


@njit(cache=True, error_model="numpy")
def unit(a):
    return along((0.0, 0.0, 0.0), a, 1 / np.sqrt(dot(a, a)))


@njit(cache=True, error_model="numpy")
def normal_at(solid, p):
    x, y = p[0] - solid.x, p[1] - solid.y
    _, nx, ny, nz = distance(solid, solid.cos * x + solid.sin * y, solid.cos * y - solid.sin * x,
                             p[2] - solid.z)
    return solid.cos * nx - solid.sin * ny, solid.sin * nx + solid.cos * ny, nz


@njit(cache=True, error_model="numpy")
def nearest(solids, origin, direction, but):
    """The first solid on a ray, `but` left out, and how far away; -1 for the ground."""
    t = -origin[2] / direction[2] if direction[2] < 0.0 else np.inf
    first = -1
    for j in range(len(solids)):
        if j != but:
            there = hit(solids[j], *origin, *direction)
            if there < t:
                first, t = j, there
    return first, t


@njit(cache=True, error_model="numpy")
def lit(solids, lamp, own, p, dither):
    """The share of a lamp that is seen from p. A convex solid does not shade itself."""
    place = (lamp.place_x, lamp.place_y, lamp.place_z)
    reach = along(place, p, -1.0)
    far = np.sqrt(dot(reach, reach))
    direction = along((0.0, 0.0, 0.0), reach, 1 / far)
    between = 0                     # a bit for every solid that touches the cone to the lamp
    for j in range(len(solids)):
        solid = solids[j]
        to = (solid.x - p[0], solid.y - p[1], solid.z - p[2])
        t = dot(to, direction)
        wide = solid.bound + lamp.spread * t / far
        if j != own and t > 0.0 and dot(to, to) - t * t < wide * wide:
            between |= 1 << j
    if between == 0:
        return 1.0
    corners = 0
    for s in range(4):
        corners += open_to(solids, lamp, between, p, place, 2.0 * (s % 2) - 1, 2.0 * (s // 2) - 1)
    if corners == 0 or corners == 4:
        return corners / 4
    seen = 0
    for s in range(16):
        a = (s % 4 + dither) / 2 - 1
        b = (s // 4 + (dither * 7 + s * 0.618) % 1.0) / 2 - 1
        seen += open_to(solids, lamp, between, p, place, a, b)
    return seen / 16


@njit(cache=True, error_model="numpy")
def open_to(solids, lamp, between, p, place, a, b):
    """Whether point (a, b), -1..1 each, of a lamp is seen from p past the solids `between`."""
    spot = along(along(place, (lamp.right_x, lamp.right_y, lamp.right_z), a),
                 (lamp.up_x, lamp.up_y, lamp.up_z), b)
    direction = unit(along(spot, p, -1.0))
    for j in range(len(solids)):
        if between >> j & 1 and hit(solids[j], *p, *direction) < np.inf:
            return False
    return True


@njit(cache=True, error_model="numpy")
def shade(solids, lamps, own, p, view, dither):
    """Light that leaves surface `own` (-1: the ground) at p against the ray `view`, mirror
    images left out: red, green, blue."""
    if own < 0:
        normal, color, metal = (0.0, 0.0, 1.0), (GROUND, GROUND, GROUND), 0
    else:
        solid = solids[own]
        normal, color = normal_at(solid, p), (solid.red, solid.green, solid.blue)
        metal = solid.metal
    total = (0.0, 0.0, 0.0)
    below = (0.0, 0.0, 0.0)
    for k in range(len(lamps)):
        lamp = lamps[k]
        power = (lamp.power_x, lamp.power_y, lamp.power_z)
        reach = along((lamp.place_x, lamp.place_y, lamp.place_z), p, -1.0)
        square = dot(reach, reach)
        to = unit(reach)
        flux = -dot(to, (lamp.forward_x, lamp.forward_y, lamp.forward_z)) / square
        if own >= 0:
            below = along(below, power, flux * max(to[2], 0.0) * GROUND * 0.35 * (1 - normal[2]))
        cosine = dot(normal, to)
        if cosine <= 0.0:
            continue
        flux *= lit(solids, lamp, own, p, dither)
        if own < 0:
            total = along(total, power, flux * cosine)
        else:
            half = unit(along(to, view, -1.0))
            gloss = dot(normal, half) ** 2 * (ALPHA ** 2 - 1) + 1
            gloss = flux * cosine * ALPHA ** 2 / (gloss * gloss) / 4
            total = along(total, power, flux * cosine * (0.15 if metal else 1.0) + gloss * 0.02)
    total = along(total, below, 1.0)
    return total[0] * color[0] / np.pi, total[1] * color[1] / np.pi, total[2] * color[2] / np.pi


@njit(cache=True, error_model="numpy")
def trace(solids, lamps, camera, right, up, forward, ids, depths):
    """Linear light of every pixel, 0..1: float64 (height, width, 3)."""
    height, width = ids.shape
    light = np.empty((height, width, 3))
    eye = (camera[0], camera[1], camera[2])
    for row in range(height):
        for column in range(width):
            view = unit(along(along(forward, right, (2 * column + 1) / width - 1),
                              up, 1 - (2 * row + 1) / height))
            own = ids[row, column]
            t = depths[row, column] if own >= 0 else -eye[2] / view[2]
            dither = 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0
            p = along(eye, view, t)
            color = shade(solids, lamps, own, p, view, dither)
            if own >= 0 and solids[own].metal:
                normal = normal_at(solids[own], p)
                mirror = along(view, normal, -2 * dot(view, normal))
                first, far = nearest(solids, p, mirror, own)
                if far < np.inf:
                    image = shade(solids, lamps, first, along(p, mirror, far), mirror, dither)
                    color = (color[0] + 0.7 * image[0] * solids[own].red,
                             color[1] + 0.7 * image[1] * solids[own].green,
                             color[2] + 0.7 * image[2] * solids[own].blue)
            for c in range(3):
                light[row, column, c] = min(color[c], 1.0)
    return light
