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
