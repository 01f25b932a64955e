"""Fakes of the teachers' packages: the calls of the real ones, and the truth of a world in their conventions.

`test_teacher_signatures.py` compares them with what was read in the sources of the packages. `twist` changes every
displacement before it is told, as a teacher that mistakes a convention would.
"""

import enum
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import torch
from exact_world import ExactWorld
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from flow3r.geometry.camera import pixel_grid

Twist = Callable[[Tensor], Tensor]
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Network(torch.nn.Module):
    """What every fake network is: a module with one weight, which load_state_dict must set to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = torch.nn.Parameter(torch.zeros(1))

    def check(self) -> None:
        assert self.loaded.item() == 1 and not self.training, "weights not loaded, or not in evaluation mode"


WEIGHTS = {"loaded": torch.ones(1)}


def module(name: str, **names: object) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(names, __version__="0.0-fake")
    return made


def normalised_positions(displacement: Tensor) -> Tensor:
    """Target positions in [-1, 1] over the image with its rims."""
    height, width = displacement.shape[1:3]
    return 2 * (pixel_grid(height, width) + displacement) / torch.tensor([width, height]) - 1


def fake_torchvision(world: ExactWorld, twist: Twist) -> ModuleType:
    class RAFT(Network):
        def forward(self, image1, image2, num_flow_updates: int = 12):
            self.check()
            height, width = image1.shape[-2:]
            assert height % 8 == 0 and width % 8 == 0 and min(height, width) >= 128
            flow, _ = world.flows((image1 + 1) / 2, (image2 + 1) / 2, (height, width))
            flow = twist(flow).movedim(-1, 1)
            return [torch.zeros_like(flow)] * (num_flow_updates - 1) + [flow]

    class Weights(enum.Enum):
        C_T_SKHT_V2 = SimpleNamespace(url="https://weights.invalid/raft_large_C_T_SKHT_V2-ff5fadd5.pth")
        DEFAULT = C_T_SKHT_V2

        @property
        def url(self) -> str:
            return self.value.url

    def raft_large(*, weights=None, progress=True, **kwargs) -> RAFT:
        assert weights is None and not progress and not kwargs
        return RAFT()

    def raft_small(*, weights=None, progress=True, **kwargs) -> RAFT:
        return raft_large(weights=weights, progress=progress, **kwargs)

    names = {"raft_large": raft_large, "raft_small": raft_small, "RAFT": RAFT}
    return module("torchvision.models.optical_flow", Raft_Large_Weights=Weights, Raft_Small_Weights=Weights, **names)


def fake_ptlflow(world: ExactWorld, twist: Twist) -> ModuleType:
    class BaseModel(Network):
        pretrained_checkpoints: ClassVar = {"things": "https://weights.invalid/fake-things-00000000.ckpt"}
        output_stride = 32

        def forward(self, inputs):
            images = inputs["images"]
            assert images.shape[1:3] == (2, 3) and images.shape[3] % 32 == images.shape[4] % 32 == 0
            rgb = images.flip(2)
            flow, _ = world.flows(rgb[:, 0], rgb[:, 1], tuple(images.shape[3:]))
            return {"flows": twist(flow).movedim(-1, 1)[:, None], "flow_small": None}

    def get_model_names():
        return ["raft", "sea_raft_m", "sea_raft_s"]

    def get_model_reference(model_name: str):
        if model_name not in get_model_names():
            raise ValueError(f"Unknown model name: {model_name}.")
        return BaseModel

    def get_model(model_name: str, ckpt_path=None, args=None):
        model = get_model_reference(model_name)()
        model.load_state_dict(torch.load(ckpt_path, weights_only=True))
        return model

    functions = (get_model_names, get_model_reference, get_model)
    return module("ptlflow", BaseModel=BaseModel, **{function.__name__: function for function in functions})


def fake_uniflowmatch(world: ExactWorld, twist: Twist) -> ModuleType:
    class UniFlowMatchConfidence(Network):
        inference_resolution = ((160, 120), (120, 160))

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path):
            made = cls()
            made.load_state_dict(load_file(f"{pretrained_model_name_or_path}/model.safetensors"))
            return made

        def predict_correspondences_batched(self, source_image, target_image, data_norm_type=None):
            self.check()
            assert source_image.dtype == torch.uint8 and data_norm_type is None
            size = tuple(source_image.shape[2:])
            width, height = min(self.inference_resolution, key=lambda wh: abs(wh[1] / wh[0] - size[0] / size[1]))
            flow, seen = world.flows(source_image / 255, target_image / 255, (height, width))
            flow = twist(flow).movedim(-1, 1) * torch.tensor([size[1] / width, size[0] / height])[:, None, None]
            flow = F.interpolate(flow, size, mode="nearest")
            mask = F.interpolate(0.1 + 0.8 * seen[:, None], size, mode="nearest")[:, 0]
            covisibility = SimpleNamespace(mask=mask, logits=None)
            return SimpleNamespace(flow=SimpleNamespace(flow_output=flow), covisibility=covisibility)

    return module(
        "uniflowmatch.models.ufm",
        UniFlowMatchConfidence=UniFlowMatchConfidence,
        UniFlowMatchClassificationRefinement=UniFlowMatchConfidence,
    )


def fake_romatch(world: ExactWorld, twist: Twist) -> ModuleType:
    class RegressionMatcher(Network):
        def __init__(self, coarse: int, fine: int, symmetric: bool):
            super().__init__()
            self.coarse, self.fine, self.symmetric = coarse, fine, symmetric

        @torch.inference_mode()
        def match(
            self,
            im_A_input,
            im_B_input,
            *args,
            im_A_high_res=None,
            im_B_high_res=None,
            batched=True,
            device=None,
        ):
            self.train(False)
            self.check()
            sides = [self.coarse] * 2 + [self.fine] * 2
            images = [im_A_input, im_B_input, im_A_high_res, im_B_high_res]
            assert all(image.shape[2:] == (side, side) for image, side in zip(images, sides))
            images = [image * DEVIATION[:, None, None] + MEAN[:, None, None] for image in images]
            assert world.recognise(images[0]) == world.recognise(images[2])
            warps, certainties = [], []
            for first, second in ((images[0], images[1]), (images[1], images[0])):
                flow, seen = world.flows(first, second, (self.fine, self.fine))
                here = normalised_positions(torch.zeros_like(flow))
                there = normalised_positions(twist(flow)).clamp(-1, 1)
                warps.append(torch.cat([here, there] if not warps else [there, here], dim=-1))
                certainties.append(0.1 + 0.8 * seen)
            parts = slice(None) if self.symmetric else slice(1)
            return torch.cat(warps[parts], dim=2), torch.cat(certainties[parts], dim=2)

    def roma_outdoor(
        device,
        weights=None,
        dinov2_weights=None,
        coarse_res=560,
        upsample_res=864,
        amp_dtype=torch.float16,
        symmetric=True,
        use_custom_corr=True,
        upsample_preds=True,
    ):
        assert dinov2_weights is not None and upsample_preds
        made = RegressionMatcher(coarse_res, upsample_res, symmetric)
        made.load_state_dict(weights)
        return made.to(device)

    return module("romatch", roma_outdoor=roma_outdoor, roma_indoor=roma_outdoor, RegressionMatcher=RegressionMatcher)


def fake_romav2(world: ExactWorld, twist: Twist) -> ModuleType:
    class RoMaV2(Network):
        def __init__(self, cfg=None):
            super().__init__()
            self.load_state_dict(WEIGHTS)
            self.eval()

        def apply_setting(self, setting):
            self.side = {"turbo": 160, "base": 176}[setting]

        @torch.inference_mode()
        def match(self, img_like_A, img_like_B):
            self.check()
            assert torch.get_float32_matmul_precision() == "highest"
            flow, seen = world.flows(img_like_A, img_like_B, (self.side, self.side))
            return {"warp_AB": normalised_positions(twist(flow)), "overlap_AB": 0.1 + 0.8 * seen[..., None]}

    return module("romav2", RoMaV2=RoMaV2)


def fake_cotracker(world: ExactWorld, twist: Twist) -> ModuleType:
    class CoTrackerPredictor(torch.nn.Module):
        def __init__(self, checkpoint="./checkpoints/scaled_offline.pth", offline=True, v2=False, window_len=60):
            super().__init__()
            assert checkpoint is None and offline and not v2 and window_len == 60
            self.model = Network()

        def forward(
            self,
            video,
            queries=None,
            segm_mask=None,
            grid_size=0,
            grid_query_frame=0,
            backward_tracking=False,
        ):
            self.model.check()
            frames, (source,) = world.recognise(video[0] / 255), queries[0, :, 0].unique().int().tolist()
            assert backward_tracking or source == 0
            start = queries[0, :, 1:]
            tracks, visible = [], []
            for target in frames:
                there, seen = world.follow(frames[source], target, start + 0.5)
                tracks.append(start + twist((there - 0.5 - start)[None, None])[0, 0])
                visible.append(seen)
            return torch.stack(tracks)[None], torch.stack(visible)[None]

    return module("cotracker.predictor", CoTrackerPredictor=CoTrackerPredictor)


FAKES = {
    "raft": fake_torchvision,
    "ptlflow": fake_ptlflow,
    "ufm": fake_uniflowmatch,
    "roma": fake_romatch,
    "romav2": fake_romav2,
    "cotracker": fake_cotracker,
}
