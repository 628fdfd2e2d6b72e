"""The source documents of this project, one module each (the longer ones two), as lists of executed equalities."""

from experiments.derivation.source_documents import (
    csdn_chain_rule,
    elementary_derivatives,
    guangcity_classifier,
    liuyan_derivatives,
    matrix_calculus,
    matrix_calculus_loss,
    two_cases,
)

DOCUMENTS = (
    matrix_calculus.DOCUMENT,
    matrix_calculus_loss.DOCUMENT,
    guangcity_classifier.DOCUMENT,
    two_cases.DOCUMENT,
    liuyan_derivatives.DOCUMENT,
    elementary_derivatives.DOCUMENT,
    csdn_chain_rule.DOCUMENT,
)
