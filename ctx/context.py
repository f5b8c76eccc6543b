"""The Dataset of the context files under its old name, for captioners that import it from here; it is xvoken.read_context now."""

from xvoken.files.context import Context as Context
