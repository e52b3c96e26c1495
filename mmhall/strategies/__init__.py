"""What a decoding strategy may be made of."""

from mmhall.strategies._base import (
    GENERAL as GENERAL,
)
from mmhall.strategies._base import (
    SEARCH as SEARCH,
)
from mmhall.strategies._base import (
    Branch as Branch,
)
from mmhall.strategies._base import (
    Composed as Composed,
)
from mmhall.strategies._base import (
    Session as Session,
)
from mmhall.strategies._base import (
    Strategy as Strategy,
)
from mmhall.strategies._base import (
    registered as registered,
)
from mmhall.strategies._base import (
    strategy as strategy,
)
