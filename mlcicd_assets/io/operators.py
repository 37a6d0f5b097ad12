"""The operator role: who may change what is live."""

import getpass
import hashlib
import hmac

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import NotAllowed


def require_operator(settings: Settings) -> str:
    """Return the operator's name; where no tokens are configured, the name of the system's user.

    Raises:
        NotAllowed: tokens are configured and the caller's is none of them.
    """
    if not settings.operators:
        return getpass.getuser()
    given = hashlib.sha256((settings.operator_token or "").encode()).hexdigest()
    # All are compared, so the time says nothing of which one was near.
    matching = [name for name, own in settings.operators.items() if hmac.compare_digest(given, own)]
    if not matching:
        raise NotAllowed(
            "this changes what is live and needs the operator role: set MLCICD_OPERATOR_TOKEN to a "
            "token of MLCICD_OPERATORS"
        )
    return matching[0]
