"""Rigid motions. Matrices are named target_from_source, so that products chain."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def invert(target_from_source: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The inverse of a rigid motion: [R | t] -> [R' | -R' t]."""
    rotation_t = target_from_source[..., :3, :3].mT
    translation = -(rotation_t @ target_from_source[..., :3, 3:])
    return from_parts(rotation_t, translation[..., 0])


def from_parts(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """[[R, t], [0, 1]]."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def transform_points(
    target_from_source: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]
) -> Float[Tensor, "*b n 3"]:
    """R p + t for n points per motion."""
    return points @ target_from_source[..., :3, :3].mT + target_from_source[..., None, :3, 3]


def transform_maps(
    target_from_source: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b H W 3"]
) -> Float[Tensor, "*b H W 3"]:
    """R p + t for a pointmap per motion."""
    return transform_points(target_from_source, points.flatten(-3, -2)).unflatten(-2, points.shape[-3:-1])


def rotation_angle(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """The angle of a rotation in radians, in [0, π], exact near 0 and near π.

    atan2 of the sine (from the skew part) and the cosine (from the trace). The gradient is finite everywhere, and 0 at
    the identity and where the skew part vanishes.
    """
    skew = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    sine = 0.5 * safe_norm(skew)
    cosine = 0.5 * (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    return torch.atan2(sine, cosine)


def safe_norm(vector: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """The Euclidean norm with gradient 0, not NaN, at the zero vector."""
    squared = vector.square().sum(-1)
    nonzero = squared > 0
    return torch.where(nonzero, torch.where(nonzero, squared, 1.0).sqrt(), 0.0)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation nearest to a 3 x 3 matrix in Frobenius norm (SVD in at least fp32, determinant +1).

    With M = U S V' the rotation turns by U Ω V', Ω_ij = (U' dM V - V' dM' U)_ij / (s_i + s_j). That gradient is exact
    and finite also at a rotation, where the gradient of the SVD is not; where no rotation is nearest it is 0.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        wide = matrix.double() if matrix.dtype == torch.float64 else matrix.float()
        with torch.no_grad():
            u, singular, vt = torch.linalg.svd(wide)
            sign = torch.linalg.det(u @ vt).sign()
            flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
            vt, singular = flip[..., None] * vt, flip * singular
            sums = singular[..., :, None] + singular[..., None, :]
            unique = sums > torch.finfo(wide.dtype).eps * singular[..., :1, None]
        # Zero in value up to rounding, since U' M V is diagonal here; it carries the gradient.
        skew = u.mT @ wide @ vt.mT
        skew = torch.where(unique, (skew - skew.mT) / torch.where(unique, sums, 1.0), 0.0)
        return (u + u @ skew) @ vt


def rotation_from_quaternion(wxyz: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation of a quaternion (w, x, y, z) of any non-zero length."""
    w, x, y, z = F.normalize(wxyz, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def quaternion_from_rotation(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """The unit quaternion (w, x, y, z) of a rotation, with w >= 0.

    Of the four equivalent formulas it takes, per rotation, the one that divides by the largest component.
    """
    m00, m11, m22 = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    m01, m02, m12 = rotation[..., 0, 1], rotation[..., 0, 2], rotation[..., 1, 2]
    m10, m20, m21 = rotation[..., 1, 0], rotation[..., 2, 0], rotation[..., 2, 1]
    # Row k of 4 q q' is the quaternion scaled by four times its own k-th component.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], dim=-1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], dim=-1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], dim=-1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], dim=-1),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = F.normalize(rows.take_along_dim(best[..., None, None], dim=-2)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_axis_angle(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation by ‖axis_angle‖ radians about axis_angle, by way of its quaternion."""
    half = 0.5 * safe_norm(axis_angle)[..., None]
    # sin(x) / x = sinc(x / π), so the vector part is axis_angle · sin(half) / (2 half), finite at 0.
    return rotation_from_quaternion(torch.cat([half.cos(), 0.5 * axis_angle * torch.sinc(half / torch.pi)], dim=-1))


def axis_angle_from_rotation(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """The axis of a rotation, times its angle in radians, in [0, π]; the inverse of `rotation_from_axis_angle`."""
    quaternion = quaternion_from_rotation(rotation)
    sine = safe_norm(quaternion[..., 1:])[..., None]
    half = torch.atan2(sine, quaternion[..., :1])
    return 2 * quaternion[..., 1:] / torch.sinc(half / torch.pi)
