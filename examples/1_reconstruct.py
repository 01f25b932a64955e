"""Cameras and points from a video, and a look at them: python examples/1_reconstruct.py VIDEO OUT"""

import sys

import numpy as np

import flow3r

video, out = sys.argv[1], sys.argv[2]
scene = flow3r.reconstruct(video, max_frames=8)  # in the frame of the first camera, at a relative scale

step = np.linalg.norm(np.diff(scene.world_from_camera[:, :3, 3], axis=0), axis=1)
depth = np.median(scene.depth[scene.valid])
focal = scene.shared_intrinsics[0, 0]
print(f"{len(scene.names)} frames on a grid of {scene.depth.shape[2]} x {scene.depth.shape[1]} pixels")
print(f"focal length {focal:.1f} px, RMS residual of the pinhole {scene.intrinsics_residual.mean():.2f} px")
print(f"path {step.sum() / depth:.3f} of the median depth ({scene.scale} scale)")

for kind, path in flow3r.write_reconstruction(scene, out, source=video, confidence_percentile=20).items():
    print(f"{kind:<12} {path}")
