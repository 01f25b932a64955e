"""Every knob, as frozen dataclasses on the standard library alone. Each default carries its source in a comment.

A run is a `TrainConfig`; named ones stand in presets.py. "ours" marks what the paper leaves silent and we chose, by
judgement or in nano-scale runs: its transfer to full scale is unproven.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EncoderConfig:
    """DINOv2 with registers (Eq. 1). Defaults: ViT-L/14, the public checkpoint."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    position_grid: int = 37  # side of the learned position table: 518 / 14
    registers: int = 4
    mlp_ratio: int = 4
    norm_eps: float = 1e-6
    mask_token: bool = False  # of DINOv2's own training; nothing reads it, but VGGT's file holds it


@dataclass(frozen=True)
class MultiViewConfig:
    """The alternating transformer (Eq. 2): even blocks attend within a view, odd ones over all views."""

    width: int = 1024
    depth: int = 36
    heads: int = 16
    registers: int = 5
    mlp_ratio: int = 4
    rope_base: float = 100.0
    norm_eps: float = 1e-6
    qk_norm_eps: float = 1e-5
    layer_scale: float = 0.01  # initial value
    camera_tokens: int = 0  # VGGT: 1, ahead of the registers, read by its camera head
    first_view: bool = False  # VGGT: the first view has camera and register tokens of its own
    rope_precision: Literal["products", "float32", "rounded"] = "products"  # matters in bf16 alone: nn/rope.py


@dataclass(frozen=True)
class BranchConfig:
    """The point, confidence and camera branches: `depth` blocks of width `width`, then a linear map to the heads."""

    width: int = 1024
    depth: int = 5
    heads: int = 16
    camera_width: int = 512  # width of the camera head behind its branch
    mlp_ratio: int = 4
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class FlowHeadConfig:
    """A flow head: which of Fig. 2, and the sizes of its DPT; its MLP follows the model's widths."""

    kind: Literal["factored", "tracking", "projective", "projective+sceneflow"] = "factored"
    features: int = 256
    level_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    output_channels: int = 32  # width before the last 1 x 1 convolution
    norm_eps: float = 1e-5
    pairs_per_chunk: int = 8  # memory bound of the dense decoder; does not change the result
    # Ours, of a factored head alone: by what the target view enters it.
    target: Literal["latents", "pose"] = "latents"  # paper; pose: its decoded camera, and nothing else of that view
    camera_width: int | None = None  # channels of its camera latents that are let through; None: all, as in the paper


@dataclass(frozen=True)
class TrackHeadConfig:
    """VGGT's track head: dense features, and the tracker that matches in them. Defaults: its public checkpoint."""

    features: int = 128
    level_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    corr_levels: int = 7  # maps that correlations are read on, each half as large as the one before
    corr_radius: int = 4  # pixels of each map to every side of a track's place
    hidden: int = 384  # width of the tracker's blocks
    depth: int = 6
    stride: int = 2  # image pixels in a feature pixel
    iterations: int = 4
    virtual_tracks: int = 64
    heads: int = 8
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """All sizes of a Flow3r; the defaults are the public 1.0 B parameter layout."""

    encoder: EncoderConfig = EncoderConfig()
    multiview: MultiViewConfig = MultiViewConfig()
    branch: BranchConfig = BranchConfig()
    flow: FlowHeadConfig | None = FlowHeadConfig()  # None: the paper's `3d-sup`, which has no flow head
    tokens: tuple[int, int] = (510, 1300)  # patches of an image that it is made for; paper A.2: 100k-255k pixels


@dataclass(frozen=True)
class CameraHeadConfig:
    """VGGT's iterative camera head."""

    depth: int = 4
    heads: int = 16
    iterations: int = 4
    mlp_ratio: int = 4
    norm_eps: float = 1e-5
    layer_scale: float = 0.01  # initial value


@dataclass(frozen=True)
class DenseHeadConfig:
    """VGGT's depth and point heads."""

    features: int = 256
    level_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    output_channels: int = 32  # width before the last 1 x 1 convolution
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class VggtConfig:
    """All sizes of a model of VGGT's family; the defaults are the public layout, 1.26 B parameters."""

    encoder: EncoderConfig = EncoderConfig(mask_token=True)
    multiview: MultiViewConfig = MultiViewConfig(depth=48, registers=4, camera_tokens=1, first_view=True, norm_eps=1e-5)
    levels: tuple[int, int, int, int] = (4, 11, 17, 23)  # pairs of blocks that the dense heads read
    camera: CameraHeadConfig = CameraHeadConfig()
    dense: DenseHeadConfig = DenseHeadConfig()
    track: TrackHeadConfig | None = TrackHeadConfig()
    flow: FlowHeadConfig | None = None
    world_points: Literal["head", "depth"] = "head"  # of the point head, or of depth and camera
    tokens: tuple[int, int] = (510, 1369)  # patches of an image that it is made for


@dataclass(frozen=True)
class MatcherConfig:
    """Encoder and multi-view transformer alone, which learn to match before there are heads; sizes as of a model."""

    encoder: EncoderConfig
    multiview: MultiViewConfig
    tokens: tuple[int, int]  # patches of an image that it is made for

    @property
    def flow(self) -> bool:
        """Whether it predicts flow, to those who ask it of every model."""
        return True


@dataclass(frozen=True)
class VggtLossConfig:
    """Weights and constants of the terms that VGGT's family alone has (appendix A.1, Eq. 14)."""

    points: float = 1.0  # Eq. 14
    rotation: float = 1.0  # Eq. 14
    centres: float = 1.0  # Eq. 14
    depth: float = 1.0  # Eq. 14
    centring: float = 0.1  # ours; β of Eq. 14 is not given
    field_of_view: float = 0.5  # VGGT: half of its rotation's; not in Eq. 14, where nothing teaches it; 0: as printed
    point_confidence: float = 0.0  # ours: as printed, the confidence of the point head is not taught
    alignment: Literal["separate", "shared"] = "separate"  # paper; shared: one motion for points, centres, rotations
    alignment_steps: int = 5  # ours: re-weightings from least squares towards the least sum of distances (Eq. 8)
    depth_alpha: float = 0.2  # VGGT; α of Eq. 13 is not given


@dataclass(frozen=True)
class LossConfig:
    """Weights and constants of the objective. A weight of 0 leaves the term out. VGGT's family has `flow` and what
    belongs to it in common with π³'s, and its own in `vggt`."""

    points: float = 1.0  # π³
    normals: float = 1.0  # π³
    translation: float = 10.0  # π³: 0.1 · 100
    rotation: float = 0.1  # π³
    confidence: float = 0.05  # π³, there in a stage of its own; ours: jointly
    flow: float = 1.0  # ours: a first choice of nano-scale runs, not swept
    huber_delta: float = 0.1  # π³, translation
    confidence_sharpness: float = 50.0  # π³-X: target exp(-50 error)
    edge_threshold: float = 0.03  # π³: relative depth step over 3 x 3 above which normals are not compared
    flow_alpha: float = 0.5  # RoMa
    flow_c: float = 1e-3  # ours; RoMa has 1e-4 in [-1, 1] units
    scale_points: int = 4096  # π³: pixels per scene of the scale solver, here drawn at random; ours: of the alignment
    vggt: VggtLossConfig = VggtLossConfig()


@dataclass(frozen=True)
class WorldsConfig:
    """The distribution of procedural worlds. Ranges are (low, high); all are ours."""

    aspect: tuple[float, float] = (0.5, 2.4)  # width / height, for those who draw image sizes
    fov_degrees: tuple[float, float] = (30.0, 90.0)  # horizontal field of view
    rotation_degrees: tuple[float, float] = (0.2, 120.0)  # between the outermost views of a scene, log-uniform
    pan_share: float = 0.0  # scenes in which the camera turns where it stands, by up to 0.6 of the field of view
    overlap: float = 0.2  # least share of a view seen in its partner, for the wide pairs
    moving_share: float = 0.4  # scenes that hold moving objects
    outdoor_share: float = 0.35
    held_out: bool = False  # draw each pair's rotation uniformly in 10-120 degrees: identity must score low
    patterns: tuple[int, ...] | None = None  # of the BASES of data/surfaces.py that surfaces wear; None: all
    details: tuple[int, ...] | None = None  # of its DETAILS; None: all
    texture: float | None = None  # difficulty of how surfaces look, whatever that of the world; None: the world's


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 2e-5  # paper A.2, stage 2
    betas: tuple[float, float] = (0.9, 0.95)  # π³ configuration
    weight_decay: float = 0.05  # π³; none for biases, norms, tokens
    warmup_steps: int = 500  # ours
    final_fraction: float = 0.01  # ours: share of the learning rate at the last step
    clip_norm: float = 1.0  # π³


@dataclass(frozen=True)
class SourceConfig:
    """A dataset that a run draws from, whole or in part: data/subsets.py puts its sequences in an order of their own,
    from which `skip` are passed over and the next `sequences` taken. Equal `skip`: the smaller set lies in the larger.
    """

    dataset: str
    sequences: int | None = None  # so many, the same for every run; None: all
    labels: Literal["own", "megasam"] = "own"  # depth and poses: the dataset's, or an optimiser's pseudo labels
    skip: int = 0  # paper 4.1: ScanNet++ gives labelled scenes and, apart from them, unlabelled ones
    weight: float = 1.0  # share of the draws of its kind, relative to the others'; ours: presets.py


@dataclass(frozen=True)
class AugmentConfig:
    """Changes of colour and sharpness in training, drawn for every view by itself. Ranges are (low, high), all π³'s."""

    brightness: tuple[float, float] = (0.7, 1.3)  # factors
    contrast: tuple[float, float] = (0.7, 1.3)
    saturation: tuple[float, float] = (0.7, 1.3)
    gamma: tuple[float, float] = (0.7, 1.3)  # exponent of intensities in [0, 1]
    hue: tuple[float, float] = (-0.1, 0.1)  # turns
    compressed_share: float = 0.5  # of the views
    quality: tuple[int, int] = (20, 99)  # of JPEG
    blurred_share: float = 0.5
    blur_scale: tuple[float, float] = (0.25, 1.0)  # side of the image that is enlarged again; 1: no blur


@dataclass(frozen=True)
class DataConfig:
    """What a step is made of. Without labelled sources these are procedural worlds."""

    labelled: tuple[SourceConfig, ...] = ()
    unlabelled: tuple[SourceConfig, ...] = ()
    labelled_flow: bool = True  # the flow loss on labelled steps too; paper 4.1: on unlabelled ones alone

    views: tuple[int, int] = (2, 24)  # paper A.2
    images_per_batch: int = 24  # paper A.2, per device
    tokens: tuple[int, int] = (510, 1300)  # patches of one image; paper A.2: 100k-255k pixels
    aspect: tuple[float, float] = (0.5, 2.0)  # paper A.2: width / height
    pairs_per_scene: int = 4  # ours: ordered pairs that the flow loss sees in each scene
    unlabelled_share: float = 0.5  # ours: share of steps on unlabelled video, where there is any
    stride_seconds: tuple[float, float] = (0.04, 2.0)  # ours: between views of a clip, log-uniform
    crop_clips: float | None = None  # ours: least share of a side that random crops of clips keep; None: none are made
    worlds: WorldsConfig = WorldsConfig()
    curriculum_steps: int = 0  # ours: steps over which worlds go from few things of distinctive looks to all there are
    small_steps: int = 0  # ours: first steps, on more and smaller images: from scratch, matching is learnt there first
    small_images: int = 64  # ours: in a batch of those steps
    small_tokens: tuple[int, int] = (25, 42)  # ours: patches of one of them
    augment: bool = True  # π³: always
    augmentation: AugmentConfig = AugmentConfig()
    bad_sample_budget: float = 0.01  # ours: share of scenes that cannot be read, beyond which a run stops
    workers: int = 1  # ours: processes that read ahead; worlds for nano take less than one core


@dataclass(frozen=True)
class TrainConfig:
    """One run. A stage of a schedule is a run of its own, chained by `init_from` and `trainable`."""

    name: str
    model: ModelConfig | VggtConfig | MatcherConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = field(default_factory=DataConfig)
    steps: int = 100_000  # paper A.2, stage 2
    seed: int = 0
    init_from: str | None = None  # file, folder, name or hub id of weights; a flow head that they lack stays fresh
    encoder_from: str | None = None  # file, folder or hub id of a DINOv2 with registers
    devices: int = 1  # processes that the numbers are meant for
    parallel: Literal["replicate", "shard"] = "replicate"  # every process holds the model, or a part of it (FSDP2)
    accumulate: int = 1  # batches of each process in a step: processes x accumulate batches share one update
    trainable: tuple[str, ...] = ("",)  # prefixes of parameter names; all others are frozen
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bf16 autocast where the device is fast in it
    recompute: Literal["nothing", "selective", "everything"] = "nothing"  # in the backward pass: nn/memory.py
    compile: bool = False  # transformer blocks by torch.compile; the first steps then take minutes
    ema: float = 0.0  # decay per step of averaged weights, which are then measured and written; 0: none
    validate_every: int = 500  # ours: steps, where there is something to measure; here and below, 0: not on the way
    best_by: str | None = None  # measure of the validation by which best.safetensors is chosen
    best_is: Literal["lowest", "highest"] = "lowest"
    patience: int = 0  # validations without a new best after which the run ends; 0: it never does
    checkpoint_every: int = 500  # ours: steps
    keep_checkpoints: int = 2  # ours: the last so many; one may be damaged
    log_every: int = 10  # π³: steps
    image_every: int = 500  # ours: steps
    probe_every: int = 0  # ours: steps; gradients of flow and labels are compared (train/probe.py); 0: never
