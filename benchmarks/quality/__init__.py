"""The method's claims, measured on a real model: SmolLM2-135M-Instruct on GSM8K and on conversations of OASST.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314) claims that four bits lose nothing that matters: NF4 beats FP4 and INT4,
double quantization is free, training through a 4-bit base matches 16-bit LoRA and full fine-tuning, paging costs
nothing. Here each claim is a table that anyone can measure again:

    data_types      what each kind of four bits costs before any training
    learning_rates  the grid from which every method gets its rate, chosen on rows that no other table uses
    parity          the same training on 4-bit and 16-bit bases, by rank and by which layers carry an adapter
    optimizers      AdamW's state in 32 bits, in 8, and in host memory
    methods         what else people fine-tune with, beside QLoRA: share of parameters, memory, time and loss

How it reads: :mod:`cell` is one measurement, fully described by its settings; the files of :mod:`tables` list each
table's cells and make its text. :mod:`tasks` and :mod:`models` give a cell its data and what it trains,
:mod:`training` and :mod:`four_bits` measure it. :mod:`study` works off the cells of all tables, in a few processes on
each device, and :mod:`results` keeps a file for each table, written after every cell: a cell whose settings are in the
file isn't measured again, so a study that was stopped goes on where it stood. :mod:`page` and :mod:`html_page` make
`docs/evidence.md` and its page with pictures.
"""
