"""Configurations that nobody writes, made to cost a reader time or memory: as large as they may be, and larger."""

import random
from collections.abc import Iterator

from planner.lint.limits import MAX_BYTES, MAX_TOKENS

REPEATED = {
    "a.sh": "'|\"|$((|$(|`|a=|$|${|${A:-|${A:-$|$(($aa$aa|<<|<<E\n|(|((|{|;|;;|&&|--a=1 \\\n|A=$((A+1))\n|A+=x\n|"
    'A=(a a)\n|A=("${A[@]}" "${A[@]}")\n|A=$A$A\n|if true; then |if [ $X = 1 ]; then A=1; else A=2; fi\n|case x in |'
    "case $x in a) B=1;; *) B=2;; esac\n|f() {\n|f() { f; f; }\nf\n|shift\n|source a.sh\n|while true; do |\\|# \n|"
    'for i in a a; do |eval |echo "$(|[[ |cat <<EOF\n$A\nEOF\n|"${A[@]:1}" |a |--micro-batch-size 1 |${#A} ',
    "a.toml": "[|{a=|a.|[a]\n|[[a]]\n|[a.b]\n|a = 1\n|a.b = 1\n|\"|'|'''|a = 1 # # #\n|a = [1, 2]\n| |[|1,|\\u|=",
    "a.json": '[|{"a":|"|1|1,|"a":1,|{|}|//\n|/* |/|\\|"\\|null|[1,|-|e|{"a":1},',
    "a.yaml": "[|{a: |? |- |a: 1\n|- a\n|'|\"|&a |*a |!a |!!python/object:x |a: &a {b: 1}\n| |\t|---\n|: |, |a: >\n|%",
    "a.py": "(|[|{|'|\"|-|not |a.|a = 1\n|a=1;|f(a)\n|a += 1\n|a = a + a\n|a = (a, a)\n|a = dict(x=a, y=a)\n|"
    "d['a'] = d\n|for i in x:\n a=1\n|def f(a):\n a=1\n|class A:\n def f(a): a=1\n|import a\n|lambda:|1 and |2**|"
    "10**9**|"
    "f'{|{1}|HybridParallelPlugin(tp_size=1, pp_size=1)\n|elif a:\n pass\n|global a\n|\\\n|@a\n|if x:\n a=1\n|@a\n|"
    "*a, |**a, |a[0]|[a for a in |try:\n a=1\nexcept A:\n a=2\n|with a:\n a=1\n|x: int = 1\n|del a\n|await |#",
}
"""Ending of a file to pieces, between bars, that are repeated."""
FRAMES = {
    "a.sh": (
        "t --micro-batch-size 1 --num-layers 2 ",
        "\nA=a\n",
        "A=(a)\n",
        "A=",
        "A=(",
        'A="',
        "f() {\n",
        "t --tensor-model-parallel-size ",
    ),
    "a.toml": ("tp_size = 1\n", "a = ", "[a]\n", "a = [", "a = '''", "[tool.x]\ntp_size = 1\n"),
    "a.json": (
        '{"train_batch_size": 1, ',
        '{"train_batch_size": ',
        '{"zero_optimization": {',
        "[",
        '{"tp_size": 1, "a": [',
    ),
    "a.yaml": ("tp_size: 1\n", "a: ", "a: [", "a: |\n", "- ", "a: &a [b]\nc: "),
    "a.py": (
        "TENSOR_PARALLEL = 1\n",
        "a = ",
        "a = 1\n",
        "d = {}\n",
        "a = [",
        "p = HybridParallelPlugin(",
        "def f():\n ",
    ),
}
"""What stands before them."""


def repetitions() -> Iterator[tuple[str, str]]:
    """Every piece alone: just below the limit of tokens, and one MiB of it."""
    for name, pieces in REPEATED.items():
        for piece in pieces.split("|"):
            marks = sum(not character.isspace() for character in piece) or 1
            for size in (MAX_TOKENS // marks - 100, MAX_BYTES // len(piece)):
                yield name, FRAMES[name][0] + piece * size


def doubled() -> Iterator[tuple[str, str]]:
    """Short texts whose values grow with every line."""
    lines = range(1, 70)
    yield "a.sh", "A0=xxxxxxxx\n" + "".join(f"A{i}=$A{i - 1}$A{i - 1}\n" for i in lines) + "t --num-layers $A69\n"
    yield (
        "a.sh",
        "A0=(a)\n" + "".join(f'A{i}=("${{A{i - 1}[@]}}" "${{A{i - 1}[@]}}")\n' for i in lines) + "t ${A69[@]}\n",
    )
    yield (
        "a.sh",
        "f0() { :; }\n" + "".join(f"f{i}() {{ f{i - 1}; f{i - 1}; }}\n" for i in lines) + "f69\nt --num-layers 1",
    )
    yield "a.sh", "if " + " && ".join(["[ $a = 1 ]"] * 5000) + "; then A=1; else A=2; fi\nt --num-layers $A"
    yield "a.sh", "A=" + "&&" * 5000 + "b\nt --num-layers 2"
    yield "a.sh", "".join(f"if [ $X{i} = 1 ]; then A{i}=1; else A{i}=2; fi\n" for i in lines) + "t --num-layers $A1$A2"
    yield "a.yaml", "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in lines)
    yield "a.yaml", "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in lines)
    yield "a.py", "a0 = (1, 1)\n" + "".join(f"a{i} = a{i - 1} + a{i - 1}\n" for i in lines) + "TENSOR_PARALLEL = a69"
    yield (
        "a.py",
        "a0 = dict(x=1)\n" + "".join(f"a{i} = dict(x=a{i - 1}, y=a{i - 1})\n" for i in lines) + "parallel = a69",
    )
    yield "a.py", "".join(" " * i + f"for a{i} in x:\n" + " " * (i + 1) + f"b{i} = 1\n" for i in range(90)) * 100
    yield "a.toml", "".join(f"[a{'.a' * i}]\nb = 1\n" for i in range(200))
    yield "a.py", "".join(f"A{i} = {i}\n" for i in range(15_000)) + "if x:\n b = 1\n" * 7_000
    yield "a.py", "p = HybridParallelPlugin(" + ", ".join(f"k{i}={i}" for i in range(20_000)) + ")\n"
    yield "a.sh", "t --micro-batch-size 1 " + " ".join(f"--o{i} {i}" for i in range(20_000))
    yield "a.json", '{"zero_optimization": {' + ", ".join(f'"k{i}": {i}' for i in range(16_000)) + "}}"


def mixtures(number: int, seed: int) -> Iterator[tuple[str, str]]:
    """Runs of some pieces after each other, of any length up to the limits."""
    draw = random.Random(seed)
    for _ in range(number):
        name = draw.choice(sorted(REPEATED))
        pieces = REPEATED[name].split("|")
        chosen = [draw.choice(pieces) for _ in range(draw.randint(1, 3))]
        length = draw.choice((10, 300, 5_000, MAX_TOKENS // 4, MAX_BYTES // 8))
        runs = [draw.choice((piece * (length // len(piece)), piece)) for piece in chosen]
        yield name, draw.choice(FRAMES[name]) + draw.choice(("".join(runs), "".join(chosen) * (length // 4 + 1)))
