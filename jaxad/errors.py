"""The one error meant for the person who started the run."""


class UserError(Exception):
    """Bad input: the message is one line that says what was found, where, what was expected and what to do.

    `jaxad.main` prints it without a traceback and exits with status 2.
    """


class NotFiniteError(UserError):
    """The features of some images hold NaN or infinity.

    Attributes:
      images: their places in the stage's order, from which the caller finds their names.
    """

    def __init__(self, images):
        self.images = tuple(int(image) for image in images)
        shown = ", ".join(map(str, self.images[:5])) + ", ..." * (len(self.images) > 5)
        super().__init__(
            f"the features of {len(self.images)} training images (number {shown}) hold NaN or infinity; expected "
            "finite numbers: look at these images and at the weights of config.backbone"
        )


def shown(value: object, longest: int = 120) -> str:
    """The value as in Python, cut where it is long: for messages."""
    try:
        text = repr(value)
    except Exception as error:  # whole numbers of many thousand digits, objects of others
        text = f"{type(value).__name__} ({type(error).__name__})"
    return text if len(text) <= longest else f"{text[: longest - 20]}... ({len(text)} characters)"


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """What an error says, on one line; its type where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}..."


def did_you_mean(name: str, known) -> str:
    """The names in `known` close to `name`, as the end of a message: " Did you mean 'a' or 'b'?"; "" if none is."""
    import difflib

    near = difflib.get_close_matches(name[:200], [str(k) for k in known], n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
