"""Organs and stains as people write them, in English, Latin and German, and by the project codes of
TCGA.
"""

import pytest

from muse_pipeline.core.specimen import ORGANS, describe_organ_fault, name_organ, name_stain

# Words for each organ, separated by "; ".
SYNONYMS = {
    "breast": "Breast; left breast; breast cancer; BRCA; TCGA-BRCA; Mamma; "
    "Mammakarzinom; mamma-ca re.",
    "colon": "COAD; READ; tcga_coad; Colon, rectum; sigmoid colon; "
    "Kolonkarzinom; Dickdarmkrebs; CRC",
    "lung": "LUAD; LUSC; Lunge links; NSCLC; lung adenocarcinoma",
    "lymph node": "Lymph_node; lymph nodes; Lymphknoten; Nodus lymphaticus; axillary sentinel node",
    "oesophagus": "esophagus; Ösophagus; Œsophagus; ESCA",
    "kidney": "KIRC; Niere; Nierenzellkarzinom; renal cell carcinoma",
    "bone marrow": "Bone marrow; Knochenmark",
    "uterus": "Corpus uteri; UCEC",
    "cervix": "Cervix uteri; uterine cervix; CESC",
    "": "; unknown; N/A; ?; unbekannt",
    # Neither organ may be the tissue's: its classes are validated in neither.
    "lymph node breast": "lymph node, breast",
    "breast metastasis in the liver": "breast metastasis in the liver",
    "brest": "brest",
}


@pytest.mark.parametrize("organ", SYNONYMS)
def test_an_organ_is_known_by_its_synonyms(organ):
    for word in SYNONYMS[organ].split("; "):
        assert name_organ(word) == organ, word


@pytest.mark.parametrize("organ", SYNONYMS)
def test_a_word_that_is_no_organ_is_a_fault(organ):
    is_organ = organ in ORGANS or not organ or "metasta" in organ
    for word in SYNONYMS[organ].split("; "):
        assert bool(describe_organ_fault(word)) != is_organ


def test_a_fault_of_an_organ_says_what_to_write():
    fault = describe_organ_fault("brest")
    assert fault.startswith("organ 'brest' is not known; did you mean 'breast'?")
    assert all(organ in fault for organ in ORGANS)
    for word in ("xyz", "metastasis"):
        assert describe_organ_fault(word).startswith(f"organ '{word}' is not known; write one of ")
    assert describe_organ_fault("colon, breast").startswith(
        "organ 'colon, breast' names breast and colon; state the one"
    )


def test_every_term_names_one_organ():
    terms = [
        (term, organ) for organ, terms in ORGANS.items() for term in (organ, *terms.split("; "))
    ]
    assert len(dict(terms)) == len(terms)
    assert {term: name_organ(term.upper()) for term, _ in terms} == dict(terms)


def test_every_project_of_tcga_has_an_organ():
    codes = (
        "ACC BLCA BRCA CESC CHOL COAD DLBC ESCA GBM HNSC KICH KIRC KIRP LAML LGG LIHC LUAD LUSC"
        " MESO OV PAAD PCPG PRAD READ SARC SKCM STAD TGCT THCA THYM UCEC UCS UVM"
    )
    assert {name_organ(f"TCGA-{code}") for code in codes.split()} <= ORGANS.keys()


@pytest.mark.parametrize(
    "stain, words",
    [
        ("H&E", "HE; h&e; H+E; H and E; Hematoxylin & Eosin; haematoxylin-eosin"),
        ("IHC", "ihc; Ki-67; KI67; MIB-1; H-DAB; Immunohistochemistry"),
        ("IHC of membranes", "HER2; Her-2/neu; CD3; CK5/6; PD-L1; E-cadherin; EGFR"),
        ("unknown", "unknown; ; ?; n/a"),
        (None, "PAS; Masson; trichrome; Giemsa"),
    ],
)
def test_a_stain_is_known_by_its_synonyms(stain, words):
    for word in words.split("; "):
        assert name_stain(word) == stain, word
