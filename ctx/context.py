"""Where the Dataset of the context files was before it became xvoken.read_context; captioners may import it from here."""

from xvoken.files.context import Context as Context
