"""Names of organs and stains, as people write them in sheets."""

from __future__ import annotations

import re
import unicodedata

from muse_pipeline.core.text import find_similar

# A marker of membranes or cytoplasm is scored in cells, not in nuclei.
HE, IHC, CELL_IHC, UNKNOWN = "H&E", "IHC", "IHC of membranes", "unknown"
STAINS = HE, IHC, CELL_IHC, UNKNOWN

# Terms in English, Latin and German, diagnoses that occur in one organ only, and the project codes
# of TCGA.
ORGANS = {
    "adrenal gland": (
        "adrenal; adrenals; suprarenal gland; glandula suprarenalis; nebenniere; acc; pcpg"
    ),
    "adipose tissue": "fat; fettgewebe",
    "anus": "anal canal; anal; analkanal",
    "appendix": "vermiform appendix; blinddarm",
    "bile duct": "biliary tract; cholangiocarcinoma; gallengang; chol",
    "blood vessel": "aorta; artery; vein; gefaess",
    "bladder": "urinary bladder; vesica urinaria; harnblase; blase; blca",
    "bone": "os; knochen; osteosarcoma",
    "bone marrow": "medulla ossium; knochenmark; laml",
    "brain": "cerebrum; cerebellum; gehirn; hirn; glioma; glioblastoma; gbm; lgg",
    "breast": "mamma; mammary gland; mammary; brust; brustdruese; dcis; tnbc; brca",
    "cartilage": "knorpel",
    "cervix": "cervix uteri; uterine cervix; zervix; gebaermutterhals; cesc",
    "colon": (
        "rectum; colorectal; colorectum; colon rectum; large intestine; large bowel; sigmoid;"
        " sigma; caecum; cecum; kolon; rektum; dickdarm; enddarm; crc; coad; read; coadread"
    ),
    "eye": "uvea; uveal; retina; auge; uvm",
    "fallopian tube": "tuba uterina; salpinx; eileiter",
    "gallbladder": "vesica biliaris; vesica fellea; gallenblase",
    "head and neck": (
        "head neck; oral cavity; mouth; tongue; larynx; pharynx; oropharynx; mund; mundhoehle;"
        " zunge; kehlkopf; hnsc; hnscc; oscc"
    ),
    "heart": "cor; myocardium; herz",
    "kidney": "renal; ren; niere; nieren; nierenzell; rcc; ccrcc; kich; kirc; kirp",
    "liver": "hepar; hepatic; hepatocellular; leber; hcc; lihc",
    "lung": "pulmo; pulmonary; bronchus; lunge; lungen; nsclc; sclc; luad; lusc",
    "lymph node": (
        "lymph nodes; lymphnode; nodus lymphaticus; nodus lymphoideus; lymphknoten; ln; sentinel"
        " node; sln; dlbc"
    ),
    "muscle": "skeletal muscle; muskel",
    "nerve": "peripheral nerve; nerv",
    "oesophagus": "esophagus; oesophageal; esophageal; speiseroehre; esca",
    "ovary": "ovarian; ovarium; ovar; eierstock; ov",
    "pancreas": "pancreatic; pankreas; bauchspeicheldruese; pdac; paad",
    "parathyroid": "nebenschilddruese",
    "penis": "penile",
    "pituitary gland": "pituitary; hypophysis; hypophyse",
    "placenta": "plazenta",
    "pleura": "mesothelioma; rippenfell; meso",
    "prostate": "prostata; prostatic; prad",
    "salivary gland": "parotid; parotis; glandula parotidea; speicheldruese",
    "skin": "cutis; dermis; epidermis; cutaneous; haut; melanoma; basal cell; skcm",
    "small intestine": "small bowel; duodenum; jejunum; ileum; duenndarm",
    "soft tissue": "sarcoma; weichteile; weichgewebe; sarc",
    "spleen": "lien; splen; milz",
    "stomach": "gastric; ventriculus; gaster; magen; stad",
    "testis": "testicle; testicular; hoden; tgct",
    "thymus": "thymoma; thym",
    "thyroid": "thyroid gland; glandula thyreoidea; schilddruese; thca",
    "tonsil": "tonsilla; tonsille",
    "ureter": "harnleiter",
    "uterus": "endometrium; endometrial; myometrium; corpus uteri; gebaermutter; ucec; ucs",
    "vagina": "vaginal; scheide",
    "vulva": "vulvar",
    "other": "another; several; mixed; andere",
}
_ORGAN_OF = {term: organ for organ, terms in ORGANS.items() for term in (organ, *terms.split("; "))}
# Longer terms come first, so that "bone marrow" is not "bone". German diagnoses are compounds, such
# as Mammakarzinom.
_TERM = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, _ORGAN_OF), key=len, reverse=True))})"
    r"(?:s?karzinom|s?carcinom|krebs|tumor|biopsie|stanze|gewebe)?s?\b"
)
_NOT_KNOWN = {
    "",
    "unknown",
    "not known",
    "unbekannt",
    "none",
    "na",
    "n a",
    "nan",
    "null",
    "missing",
    "not stated",
}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "œ": "oe"})

_STAIN_OF = {
    **dict.fromkeys(_NOT_KNOWN, UNKNOWN),
    **dict.fromkeys(
        ("he", "h e", "h and e", "hes", "he stain", "haematoxylin eosin", "haematoxylin and eosin"),
        HE,
    ),
    **dict.fromkeys(("ihc", "dab", "hdab", "brown", "ki67", "mib1", "er", "pr", "ar"), IHC),
    **dict.fromkeys(("p16", "p40", "p53", "p63", "ttf1", "sox10", "s100"), IHC),
    **dict.fromkeys(
        (
            *("ihc of membranes", "membranes", "membrane", "her2", "her2neu", "erbb2", "egfr"),
            *("pdl1", "ecadherin", "cdh1", "epcam", "berep4", "ema", "claudin18", "cldn182"),
        ),
        CELL_IHC,
    ),
}


def name_organ(text: str) -> str:
    """The name in ``ORGANS`` of the organ in a text, such as "breast" for "Left mamma", "BRCA" or
    "TCGA-BRCA".

    The name is "" if the text states that the organ is not known. A text with no term or terms of
    several organs, or about a metastasis, is returned in lower case, since its tissue may be that
    of neither.
    """
    words = _plain_words(text)
    if words in _NOT_KNOWN:
        return ""
    organs = {_ORGAN_OF[term] for term in _TERM.findall(words)}
    return organs.pop() if len(organs) == 1 and "metasta" not in words else words


def describe_organ_fault(text: str) -> str:
    """The reason why a text names no organ, and what to write; "" if it does, or if it states that
    the organ is not known.

    A text about a metastasis may name several organs.
    """
    words = _plain_words(text)
    terms = {_ORGAN_OF[term] for term in _TERM.findall(words)}
    if words in _NOT_KNOWN or len(terms) == 1 or (terms and "metasta" in words):
        return ""
    if terms:
        names = " and ".join(sorted(terms))
        return f"organ '{text}' names {names}; state the one that the slide shows"
    similar = find_similar(words, _ORGAN_OF, cutoff=0.8)
    hint = f"did you mean '{similar}'? The organs are" if similar else "write one of"
    return f"organ '{text}' is not known; {hint} {', '.join(ORGANS)}"


def name_stain(text: str) -> str | None:
    """The stain in ``STAINS`` that a text means, such as "IHC" for "Ki-67" or "H&E" for "he"; None
    if it is another.
    """
    words = _plain_words(text).replace("hematoxylin", "haematoxylin")
    joined = words.replace(" ", "")
    if re.fullmatch(r"(cd|ck)\d+[a-z]?", joined):
        return CELL_IHC
    if words.startswith("immun"):
        return IHC
    return _STAIN_OF.get(words) or _STAIN_OF.get(joined)


def _plain_words(text: str) -> str:
    """A text in lower case, without accents, and with single spaces in place of punctuation."""
    folded = unicodedata.normalize("NFKD", text.casefold().translate(_UMLAUTS))
    letters = "".join(char for char in folded if not unicodedata.combining(char))
    return " ".join(re.findall(r"[^\W_]+", letters))
