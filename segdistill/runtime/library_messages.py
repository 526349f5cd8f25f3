"""What libraries print that says nothing to the user of a command: `cli.main` and loader processes leave it out.

As a library, the package leaves all of this as its user has it.
"""

import logging
import os
import warnings


def leave_out_messages() -> None:
    """Leave out what is known to be no news, for the rest of the process."""
    # Pillow warns of large images. Ours have a limit, which is checked before any pixel is decoded.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit", RuntimeWarning)
    # It would warn of a home folder where it can keep nothing.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # It would warn of the tensors of a classifier's last layers, which a backbone does not have.
    logging.getLogger("timm").setLevel(logging.ERROR)
    # Of a teacher it says what its loading has to say, and we say that by name.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
