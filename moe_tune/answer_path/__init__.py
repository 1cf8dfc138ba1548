"""The answer path: prompts are computed once, and every head after that costs one token per question.

A head that acts at the answer position of a layer and those above it leaves the keys and values of all earlier tokens
alone. So one pass over the prompts keeps, per question, what enters that layer at the answer position and the keys and
values of the layers from there on; the rest of the model then runs on the answer token alone. It is exact.
The answer tokens of a cloze question are the last of its prompt and those of its choices but their last.
"""
