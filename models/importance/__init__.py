"""How much each head and each neuron of a model matters, measured on its user's own labelled pictures.

    asking      parent: has a child measure, tells how far it is, keeps the result
    measure     child:  model, pictures ─▶ scores, resilience
    labelled    IDX files, folders of pictures, .npz ─▶ batches; `arrays`, `folders`
    scores      |w · ∂L/∂w| of every head and neuron
    resilience  accuracy with only the most important of them; `shares`
    kept        what was found, as a file; read with every value checked
    roles       which tensors belong to which head and neuron

Nothing is imported here: `kept` and `asking` load no torch, and that is for peers to rely on.
"""
