"""What the codes of messages mean that come from no rule of the rule table."""

import enum

NO_LAYOUT = "INF001"
NO_WAY, OTHER_COUNT, OTHER_PIN, OFFLOAD = "WAY000", "WAY001", "WAY002", "WAY003"
LARGER_CARD, OTHER_BATCH, SMALLER_RESERVE = "WAY004", "WAY005", "WAY006"
"""What the search says of a problem without a layout."""
TIGHT_MEMORY, EXTRAPOLATED, TWO_STREAMS = "EST001", "EST002", "EST003"
"""What limits a prediction."""


class Config(enum.StrEnum):
    """Codes of messages about hand-written configurations."""

    HIDDEN = "CFG001"
    WRONG_KIND = "CFG002"
    CONTRADICTION = "CFG003"
    UNKNOWN_KEY = "CFG004"
    NO_PREDICTION = "CFG005"
    OTHER_LANGUAGE = "CFG006"
    UNREADABLE = "CFG007"
    NOTHING_FOUND = "CFG008"
    NO_PLAN = "CFG009"
    COMPARISON = "CFG010"


CODES: dict[str, str] = {
    "USAGE": "An option, a name, a number or a file cannot be read as what it should be. Nothing was done.",
    "BUG": "gptplan itself failed. GPTPLAN_DEBUG=1 shows the traceback, which belongs into a report.",
    NO_LAYOUT: "No layout keeps the named requirements together. The set is a smallest one: without any of them some "
    "layout keeps the others; what else that layout breaks is said. Where no layout keeps the requirements that are "
    "left, they hold another such set, which follows.",
    NO_WAY: "No change that gptplan tries leaves a layout, nor one together with leaving out all pins.",
    OTHER_COUNT: "Another number of GPUs leaves a layout.",
    OTHER_PIN: "Another value of a pin, or no forbidden value, leaves a layout.",
    OFFLOAD: "Offload of the optimizer to the host leaves a layout.",
    LARGER_CARD: "A larger built-in card leaves a layout.",
    OTHER_BATCH: "Another global batch leaves a layout.",
    SMALLER_RESERVE: "A smaller memory reserve leaves a layout, and less room for what the memory model does not "
    "count.",
    TIGHT_MEMORY: "A plan fits the reserve that was asked for, and a stage is less sure to fit than usual, or than was "
    "asked: predictions of the memory of measured runs missed by more than it has to spare too often.",
    EXTRAPOLATED: "The runs that the expected error was measured in had fewer GPUs or nodes, other cards or smaller "
    "models than the plan. How far off it is there is not known.",
    TWO_STREAMS: "ZeRO stage 3 allocates a rank's pieces in blocks of one stream in forward and of another in "
    "backward, and PyTorch's allocator keeps both. Where the device has no room for them, blocks are freed and asked "
    "for again in every step, and the step takes longer than predicted.",
    Config.HIDDEN: "A value of a configuration cannot be told without running the file, which gptplan never does. It "
    "is open; the rest of the file is checked.",
    Config.WRONG_KIND: "A value of a configuration is not of the kind that its key takes.",
    Config.CONTRADICTION: "A key of a configuration is defined twice, with different values.",
    Config.UNKNOWN_KEY: "A plugin of Colossal-AI, or a section of DeepSpeed's configuration, has no such key and would "
    "refuse it; as a warning, DeepSpeed drops a key that is nearly called like one that it reads.",
    Config.NO_PREDICTION: "Something is not known that memory and time depend on, or no formula describes the layout, "
    "so only the rules were checked.",
    Config.OTHER_LANGUAGE: "A configuration file is not of the language that its name or its beginning says.",
    Config.UNREADABLE: "A configuration file cannot be read: it is empty, binary, too large or no ordinary file.",
    Config.NOTHING_FOUND: "Nothing in the file is a parallel configuration that gptplan knows.",
    Config.NO_PLAN: "A configuration that breaks a rule, does not fit or is not executed by gptplan cannot become a "
    "plan.",
    Config.COMPARISON: "How far a configuration is from the best layout for the same GPUs and the same batch.",
    "EXP001": "A plan or its job cannot become a file for what `gptplan export` was asked for; the message says why.",
    "PLAN001": "The plan file has a format that this gptplan does not read. Solve again.",
    "PLAN002": "The plan's content does not match its digest: it was changed after gptplan wrote it. Its proof and "
    "its prediction would no longer hold, so nothing uses it. Solve again, with --pin for what has to change.",
    "PLAN003": "The plan's digest is right and its fields are not those of this gptplan. Solve again.",
    "VAL001": "The predictions miss the measured runs of a set by more than --max-memory-error or --max-time-error.",
    "VER001": "The losses or gradients of a layout differ from those of one process by more than rounding explains.",
    "CAL001": "A measurement of a machine failed, or is not of what it should be, and the message says which.",
    "CAL002": "Too few recorded runs have a step time and a prediction: constants fitted to them would say nothing.",
    "CAL003": "Refitted constants predict the runs that they were not fitted to no better than the old ones.",
    "RUN001": "Packages that a run needs are not installed. Planning works without them.",
    "RUN002": "Colossal-AI, transformers or PyTorch has another version than the plan or the runtime was made for.",
    "RUN003": "The devices of this machine are not those the plan was made for, or there are too few.",
    "RUN004": "The plan is for a training stack that gptplan plans and does not run.",
    "RUN005": "Offload to NVMe cannot work here: the folder, its file system, the room in it, or a library is missing.",
    "RUN006": "The training data or the tokenizer cannot be used.",
    "RUN007": "The loss is no number any more.",
    "RUN008": "A worker failed or was killed; its traceback is in the file that the message names.",
    "RUN009": "The number of processes is not the number of devices in the plan.",
    "RUN010": "The nodes of a run did not find each other, or the port at which they meet is in use.",
    "RUN012": "The optimizer of the plan is compiled at first use, and a compiler for that is missing.",
    "RUN011": "A drive that the run writes to is full.",
    "RUN014": "Another node of the run has ended or is not heard any more, so this one ended too.",
    "RUN015": "What was typed and what the job's environment says of nodes differ. What was typed holds.",
    "RUN016": "A rank got what no rank of its run sends. Nothing of it is executed, and the run ends.",
    "DOC001": "Nodes differ where a run takes them for the same: versions, kind of device, driver. Nodes of different "
    "kinds are not planned for yet.",
    "DOC002": "The clocks of two nodes are more than a second apart.",
    "DOC003": "A folder that all nodes use is not there on one of them, cannot be written to, or has other files.",
    "DOC004": "A node cannot be connected to by another, or gave no answer.",
    "DOC005": "A device is stuck, or multiplies matrices at less than 80 % of the rate of the others.",
    "DOC006": "The groups of an axis reach less than half of the bandwidth that the plan assumed for them.",
    "DOC007": "Something else uses the memory of a device.",
    "DOC008": "A limit of the system is lower than the communication library wants.",
    "DOC009": "The communication library chose another network than the plan assumed, or than it chose on node 0.",
    "DOC010": "The ranks of a check failed, or did not come to its end.",
    "DOC011": "A node knows its own name as an address at which no other node reaches it, or does not know it.",
    "CKP001": "There is no complete checkpoint where one was named.",
    "CKP002": "A checkpoint is not as it was written: its manifest or a file was changed, cut off or removed, or "
    "another version wrote it. Nothing was loaded.",
    "CKP003": "A checkpoint is of a model with other tensors than the plan's. Nothing was loaded.",
    "CKP004": "The states of a layout or an optimizer cannot be put together, so that they could not be saved. It is "
    "said before training begins.",
    "CKP005": "A checkpoint could not be written. Those that were complete are still there.",
    "RUN013": "ZeRO stage 3 does not take this optimizer: it updates chunks of weights, some of them on the host.",
}
"""Code to what it means."""
