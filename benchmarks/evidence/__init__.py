"""Evidence beside a result: is it more than plain decoding, than a random twin, and than what is trivial to do?"""

from mmhall.benchmarks.evidence.lineup import (
    GREEDY as GREEDY,
    LEAST_SEEDS as LEAST_SEEDS,
    SAMPLING as SAMPLING,
    Lineup as Lineup,
    lineup_of as lineup_of,
)
from mmhall.benchmarks.evidence.ticks import Control as Control, Evidence as Evidence, Tick as Tick
