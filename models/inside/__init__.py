"""What lies inside a transformer block, so that several devices can run one block together.

recognition  graph ─▶ roles of a block's tensors, verified with numbers          (child process only)
extents      roles and a shard ─▶ the names and shapes of the tensors it needs
dealing      importance ─▶ which heads and neurons are whose
cutting      a model's file ─▶ the tensors of each member of a group
running      a shard in memory, in turns with the others; `tokens`, `columns`, `formula`, `products`, `wires`
"""
