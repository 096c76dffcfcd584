"""What the statuses of findings mean, for whoever reads a report."""

MEANING = {
    "supported": "shown, beyond everything that it was compared with",
    "for review": "something is there, and somebody has to judge it",
    "not supported": "tested, and not shown; it would have shown if it were strong",
    "inconclusive": "too little to say",
    "not applicable": "there was nothing to check",
}
