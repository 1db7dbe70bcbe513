"""The few words that the reading knows."""

# Words that begin sentences or stand for something named before: a capital says nothing about them.
COMMON = frozenset(
    """
    a about after again all also although an and another any are as at be because been before being both but by can could did
    do does during each either even every few first for from had has have he her here his how however i if in into is it its
    later last like many may more most much must my neither new next no nor not now of on once one only or other our out over
    part people second section several she should since so some such than that the their them then there these they this those
    three through thus to today together two under until up very was we were what when where which while who why will with
    within without would yes yesterday you your despite according meanwhile moreover therefore furthermore instead perhaps
    nevertheless today tomorrow recently please thanks dear note table figure chapter page appendix example summary
    january february march april june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday
    """.split()  # noqa: SIM905 - words in rows read better than a list of quoted ones
)

TITLES = frozenset(
    """
    Captain Chancellor Curator Director Doctor Dr Father Frau Herr Judge Justice Lady Mayor Minister Miss Mr Mrs Ms President Prof
    Professor Sir
    """.split()  # noqa: SIM905
)

GIVEN_NAMES = frozenset(
    """
    Ada Adam Alan Albert Alexander Alice Amelia Andrea Andrew Angela Anna Anne Antonio Barbara Benjamin Boris Carl Carlos
    Caroline Charles Charlotte Chen Christine Clara Claire Daniel David Diana Dmitri Edward Elena Elizabeth Emily Emma Erik
    Ernest Eva Fatima Francis Frank Franz George Grace Hannah Hans Helen Henry Hiroshi Hugo Ingrid Irene Isaac Ivan Jacob James
    Jane Jean Johann John Jonas Joseph Julia Karen Karl Katherine Kenji Laura Leo Linda Lisa Louis Lucas Lucy Ludwig Maria
    Marie Mark Martin Mary Max Maya Mei Michael Mohammed Nadia Nicolas Nina Oliver Olga Omar Otto Paul Peter Philip Pierre Priya
    Rachel Robert Rosa Ruth Sam Samuel Sara Sarah Simon Sofia Sophie Stefan Susan Thomas Tom Victor Walter Werner William Yuki
    """.split()  # noqa: SIM905
)

ORGANISATION_WORDS = frozenset(
    """
    AG Academy Administration Agency Airlines Associates Association Authority Bank Board Bureau Co College Commission Committee
    Company Consortium Corp Corporation Council Court Department Energy Foundation Fund GmbH Group Holdings Hospital Inc
    Industries Institute Instruments Insurance KG LLC LLP Laboratories Laboratory Labs Limited Ltd Ministry Motors Museum
    Office Organisation Organization PLC Parliament Partners Pharma Pharmaceuticals Press SA SE School Services Society Solutions
    Systems Technologies Trust Union University Works
    """.split()  # noqa: SIM905
)

PLACE_WORDS = frozenset(
    """
    Avenue Bay Canal City Coast County District Harbour Hill Island Islands Lake Mount Mountains Ocean Park Port Province
    Republic River Road Sea Square States Station Street Valley
    """.split()  # noqa: SIM905
)

PLACES = frozenset(
    """
    Africa America Amsterdam Asia Athens Australia Austria Barcelona Basel Beijing Belgium Berlin Boston Brazil Brussels Canada
    Chicago China Copenhagen Denmark Dublin Egypt England Europe Finland France Frankfurt Geneva Germany Greece Hamburg Helsinki
    Hungary India Ireland Israel Italy Japan Kenya Lisbon London Madrid Mexico Milan Munich Netherlands Norway Oslo Oxford Paris
    Poland Portugal Prague Rome Russia Scotland Singapore Spain Stockholm Stuttgart Sweden Switzerland Texas Tokyo Toronto
    Turkey Ukraine Vienna Wales Warsaw Washington Zurich
    """.split()  # noqa: SIM905
)

# What may be followed by "of" within one name.
HEADS = ORGANISATION_WORDS | PLACE_WORDS | frozenset({"Duchy", "Kingdom", "State", "Bank", "Gulf", "Isle", "House", "Church"})

PLACE_PREPOSITIONS = frozenset({"in", "at", "near", "from", "to", "around", "outside", "across"})

# Verbs whose form does not give them away; those in -ed are known by it.
VERBS = frozenset(
    """
    is was are were has had born won built made led leads wrote writes sold sells bought buys owns runs ran holds held makes
    sent began became becomes met joins acquires develops employs produces supplies treats causes inhibits contains uses
    supports operates manages governs feeds hosts hosted teaches taught knows knew leaves left gave gives took takes
    found finds founds grew grows hires chairs directs represents includes requires controls drives measures powers
    connects replaces reduces increases shows says said
    """.split()  # noqa: SIM905
)

AUXILIARIES = frozenset({"is", "was", "are", "were", "be", "been", "has", "have", "had"})
BEFORE_VERBS = frozenset({"", "who", "which", "that", "also", "later", "then", "now", "first", "soon", "still", "always"})
VERB_PREPOSITIONS = frozenset({"by", "in", "at", "with", "for", "to", "from", "of", "on", "into", "as", "against"})
ARTICLES = frozenset({"the", "a", "an", "its", "their", "his", "her", "new"})
# What begins another clause: the name behind it belongs to that one.
CLAUSE_WORDS = frozenset({"and", "or", "but", "that", "which", "who", "when", "where", "while", "because", "if", "than", "not"})

# Shorter words in -ed are no pasts: need, seed, red.
_SHORTEST_PAST = 5


def is_verb(word: str) -> bool:
    """Whether the word is one of the verbs above or has the form of a past."""
    return word in VERBS or word in AUXILIARIES or (word.endswith("ed") and len(word) >= _SHORTEST_PAST)


def looks_like_verb(word: str) -> bool:
    """Whether the word may be a verb of the third person: also true of a plural, so that its place must tell."""
    return word.isalpha() and word.islower() and word.endswith("s") and not word.endswith("ss")
