"""One's own data as a row: ROOT/posed_folders holds folders of images with cameras.json (docs/data.md).

The numbers of the row are ours: nothing is known of what people bring, so that strides reach from neighbouring frames
of a video to half a second apart, and short sequences and pairs are taken whole.
"""

from flow3r.data.datasets.posed_folders import POSED_FOLDERS
from flow3r.eval.benchmarks.benchmark import Benchmark
from flow3r.eval.benchmarks.samplings import Strides

FOLDERS = Benchmark(
    name="folders",
    title="Own posed folders",
    dataset=POSED_FOLDERS.name,
    sampling=Strides((1, 2, 4, 8, 16), fewest=2),
    measures=("pose", "points", "depth"),
    labels_vary=True,  # depth is optional in cameras.json
)

OWN_ROWS = (FOLDERS,)
