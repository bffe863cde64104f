"""Anatomy from labelled references (RAU): the bank, the reasoners, and masks by a language model's tokens."""

from __future__ import annotations

from anatrust.reference.bank import ReferenceBank, Retrieval, slices_of
from anatrust.reference.correspondence_reasoner import CorrespondenceReasoner
from anatrust.reference.descriptor import ScanDescriptor
from anatrust.reference.language_reasoner import LanguageReasoner
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.reference.relations import broken_relations, relations_of

__all__ = [
    "CorrespondenceReasoner",
    "LanguageReasoner",
    "ReferenceBank",
    "RegistrationReasoner",
    "Retrieval",
    "ScanDescriptor",
    "broken_relations",
    "relations_of",
    "slices_of",
]
