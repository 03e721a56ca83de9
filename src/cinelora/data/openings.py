"""Owns the openings that captioning models put before what they see, and that say nothing of the clip.

In: a caption on one line. Out: the caption from its first telling word on. What is cut:

    In this video, (we see) ...        The video shows (that) ...      This clip depicts / features / captures ...
    The scene opens with ...           A short video showing ...       This is a video of ...
    (Here) we (can) see ...
    Sure, here is a caption for the video: ...                         Caption: ...

Words of style stay, and with them the whole opening ("The black and white video shows", "A watercolour video of"), for
they do tell something. So does "A video of ...", which people write on purpose, in prompts as well. Other verbs
("The video follows", "The scene is set in") stay, since what follows them is no sentence.
"""

import re

_BARE = r"(?:short |brief |provided |given |following |entire |whole |opening |first )?"
_MEDIUM = (
    rf"{_BARE}(?:video(?: clip| sequence| footage)?|clip|footage|film|scene|sequence|shot|frame|"
    r"image|picture|photo|photograph)s?"
)
_NAMED = rf"(?:the|this|these) {_MEDIUM}"
_SHOWS = (
    r"(?:shows?|depicts?|features?|displays?|presents?|portrays?|illustrates?|showcases?|captures?|"
    r"(?:opens|begins|starts) (?:with|on))"
)
_SHOWING = r"(?:showing|depicting|featuring|displaying|presenting|portraying|illustrating|showcasing|capturing)"
_SEE = r"(?:we|you|one|viewers?|the viewers?) (?:can |could |may )?(?:see|observe|witness|notice)s?"
_OPENINGS = tuple(
    re.compile(rf"(?:{pattern})\s*", re.IGNORECASE)
    for pattern in (
        r"(?:sure|certainly|of course)[,.!] (?:here is|here's) [^:.!?]{0,80}:(?!\S)",
        r"here(?: is|'s) (?:a|the) [^:.!?]{0,20}(?:caption|description|prompt)[^:.!?]{0,60}:(?!\S)",
        r"(?:caption|description|prompt):(?!\S)",
        rf"(?:in|throughout|within) {_NAMED},?(?: {_SEE}(?: that| how|:)?(?!\S)|(?<=,)(?!\S))",
        rf"{_NAMED} (?:primarily |mainly |simply )?{_SHOWS}(?: us)?(?: that|:)?(?!\S)",
        rf"this is an? {_MEDIUM} (?:of|that {_SHOWS}|{_SHOWING})(?!\S)",
        rf"(?:an?|the|this) {_MEDIUM} (?:that {_SHOWS}|{_SHOWING})(?!\S)",
        rf"(?:here,? )?{_SEE}(?: that|:)?(?!\S)",
    )
)
_WORD = re.compile(r"[^\W_]")


def without_opening(caption: str) -> str:
    """The caption without its opening, its first letter a capital then; as it was where nothing would be left.

    Openings are cut as long as there are any, so that doing it twice changes nothing more.
    """
    rest = caption
    while True:
        ends = (match.end() for opening in _OPENINGS if (match := opening.match(rest)))
        cut = rest[next(ends, 0) :]
        if cut == rest or not _WORD.search(cut):
            break
        rest = cut
    return rest if rest == caption else _capital(rest)


def _capital(text: str) -> str:
    """With a capital first letter, where the letter has one of its own."""
    first = text[:1].upper()
    return first + text[1:] if len(first) == 1 else text
