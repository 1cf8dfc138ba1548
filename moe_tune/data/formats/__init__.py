"""The layouts that people keep multiple-choice questions in, one per file, recognised by their columns.

A new one is one file with one ``QuestionFormat``; nothing here knows files, splits or the Hub.
"""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, list(__path__))
