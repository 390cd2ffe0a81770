"""The API that clients of OpenAI speak, before Triton: python -m components.openai --repository DIR

    GET  /v1/models             recipes, and the versions of them that are served, as far as the key may see them
    POST /v1/chat/completions   the assistant's next turn, or what a model says to a document
    POST /v1/completions        what a model says to a document
    GET  /                      a page to try them

`model` is a recipe, `support-chat`, or one of its versions, `support-chat@7`; each answer names the version that it is
of. It keeps nothing: which version answers for a recipe is the ledger's business and Triton's. Answers are greedy, as
they were when the model was judged, so what asks for chance is refused.

    asked.py   what may be asked
    said.py    answers, whole and piece by piece
    keys.py    who may ask what, of what there is
    api.py     between the two, and Triton
"""
