"""Makes the demo model's training dialogues: endless, from a seed. A dialogue is [(question, answer), ...], sometimes with a system prompt before it."""
import os, random, re, zlib

import facts
from talk import ADJ, APPS, JOBS, NAMES, NEGATIVES, PEOPLE, PLACES, SMALL_TALK, STATES, THINGS, UNKNOWN, VERBS
from usage import TOPICS
from wordings import MORE, SYNONYMS

HERE = os.path.dirname(os.path.abspath(__file__))


# --- patterns: (a|b|) chooses, x? is x or nothing for a group -------------------------------------------------------------------
def parse(pattern):
    position = 0

    def sequence():
        nonlocal position
        parts, text = [], ""
        while position < len(pattern) and pattern[position] not in "|)":
            c = pattern[position]
            if c == "\\":
                text += pattern[position + 1]
                position += 2
            elif c == "(":
                position += 1
                options = [sequence()]
                while pattern[position] == "|":
                    position += 1
                    options.append(sequence())
                position += 1
                if pattern[position:position + 1] == "?":
                    position += 1
                    options = options + [[]] * len(options)
                parts += [text, options]
                text = ""
            elif c == "?":  # of one letter
                position += 1
                parts += [text[:-1], [[text[-1]], []]]
                text = ""
            else:
                text += c
                position += 1
        return [p for p in parts + [text] if p != ""]

    return sequence()


def expand(node, rng):
    return "".join(part if isinstance(part, str) else expand(rng.choice(part), rng) for part in node)


def parsed(patterns):
    return [parse(p) for p in patterns]


HOW = parsed(["how (do|can|would|could|should) i", "how (do|can) (you|we|one)", "how to", "(what is|what's) the (command|way|flag|option|best way|right way|easiest way) to", "i (want|need|would like|wish|am trying|have) to", "i'd like to", "(show|tell) me how to", "(can|could|may) i", "is it possible to",
              "is there (a|any) way to", "please explain how to", "what (do|must|should) i (type|do|write|use|enter) to", "explain how to", "(which|what) (command|option|flag|switch) (do i (use|need)|should i use|is used|lets me|is there) to", "help me( to)?", "what lets me", "do you know how to", "(can|could) you tell me how to",
              "any idea how to", "where can i", "how does one", "", "", "i want to know how to", "how am i supposed to", "what would i do to"])
SET = parsed(["(which|what) (flag|option|switch|setting|argument|parameter) (sets|changes|controls|is for|decides|limits|chooses|governs|specifies|determines|configures)", "how (do|can) i (set|change|control|choose|configure|specify|adjust|give|define)", "where (do|can) i (set|change|configure|give|choose)", "(is there|do you have) (a|an) (flag|option|setting) for", "(what is|what's) the (flag|option|setting|switch|parameter) for",
              "how (is|are)", "(i want|i need|i would like) to (set|change|choose|control)", "(set|change|choose|configure)", "what about", "(flag|option|setting) for", "tell me about", "can i (set|change|choose|control|configure)", "what (controls|sets|decides|determines)", "how to (set|change|choose|control|configure)"])
NAMED = parsed(["(what is|what's|what are)", "what does", "explain", "(describe|define)", "what is the (meaning|purpose|use) of", "(tell me|say something) about", "what about", "how (do|can|should) i use", "when (do|should|would) i use", "how does", "why (would|should) i use", "what is X for", "", "", "i don't understand", "what can i do with", "how to use", "what happens with"])
AFTER_WHAT_DOES = [" do", " mean", " stand for", " do exactly", " change"]
SUFFIX = parsed(["( in engine| with engine| here| with this program| with this tool| in this program| from the command line| using engine| please| pls| on my machine| with it| quickly| easily)"])
# Before and after a question, whatever it is about.
CONTEXT = parsed(["i am (new to|just starting with|not very good with) (this|engine|computers|all this|linux|language models)", "i (just|only just) (installed|built|found|downloaded|started) (it|engine|this)( yesterday| today)?", "(hi|hello|hey)( there| all| everybody)?", "(sorry|forgive me) for the (stupid|silly|basic|dumb) question", "(this is|maybe) a (stupid|silly|simple|basic) question",
                  "i am (working on|writing) (a|my) (school project|script|thesis|little tool|report|project)", "my (boss|colleague|friend|teacher|sister|son) (asked me|wants to know|told me to ask|is asking)", "i have been (trying|reading|searching) for (an hour|hours|a while|days)", "i (read|looked at) the (docs|readme|help)( but did not find it)?", "(i tried a lot|i tried everything|nothing works|i can't figure it out|i am stuck|i am lost here|i am confused)",
                  "(one|another|a quick|a short|last|first|second) (question|thing)", "(thanks|ok thanks|great|good|fine|i see|understood)", "(please help|help me|help)", "i am using (engine|it) (at work|at home|at school|on a server|for a project)", "i (have|need) to (give a talk|write a report|show this to my boss|get this done today)", "(for my|for a) (project|talk|colleague|report)"])
AFTERWARDS = parsed(["(thanks|thank you|thx|cheers|many thanks)( in advance| a lot)?", "i am (new here|a beginner|stuck|lost)", "(please help|help me|help)", "(any|some) (hints|ideas|help|advice)", "i can't find it( anywhere| in the docs)?", "i could not find (it|that)( in the help)?", "is that possible", "how", "what should i do", "(it|this) is urgent", "i have no idea", "can you tell me"])
FILLERS = set("the a an do does did i to please is are am be can could may my it of for me this that in on at there you will would should has get some any so its we our one's i'm i'd need want".split())
# How careful people write what the questions have in small letters.
WRITTEN_AS = {word.lower(): word for word in """GPU GPUs CPU CPUs RAM JSON API HTTP HTTPS TLS SSL CUDA AVX AVX2 AVX512 AVX-512 SIMD ISA LoRA PEFT CORS URL URLs PDF KV GB AI LLM LLMs GGUF GPTQ AWQ FP8 ONNX REST SSE VRAM REPL GUI UI TCP IP LAN VPS ARM NVIDIA AMD Intel Python PyTorch
    Rust Linux Debian Ubuntu Windows macOS Docker Dockerfile Podman Kubernetes OpenAI Hugging Face Qwen Llama Mistral Mixtral Gemma Phi DeepSeek Raspberry Pi Firefox Chrome JavaScript Transformers Jinja ChatGPT Git Meson CMake Prometheus Bash C++ Ctrl-C Java Excel English German French Spanish German Berlin London""".split()}
# Too short to lose words; and those that mean something else with more words around them.
WHOLE = {"who", "can", "maker", "small", "fivehundredtwelve", "engine", "help", "real"}
ALONE = {"who", "can", "maker", "small"}
PREFIX = parsed(["(hi|hello|hey|ok|okay|so|um|well|sorry|please|and|now|thanks|also|next|quick question|question|excuse me|hey engine|by the way|great|cool)(,|,| -|:|)? ", "(can|could) you (please )?tell me ", "(do you know|tell me|please tell me|i want to know|i wonder|i'd like to know|i need to know|please say|any idea|let me know|say|i was wondering|you know) "])
SYSTEM = parsed(["you are (a|an) (helpful|friendly|polite|useful|concise|honest|expert|funny|strict) (assistant|chatbot|bot|teacher|helper|pirate|robot|guide|ai)( who (answers briefly|tells the truth|likes cats|knows everything|never lies))?.?", "(answer|reply) (briefly|shortly|in one sentence|politely|like a pirate|in english|honestly).?", "be (brief|helpful|kind|honest|concise|creative).?", "you are (chatgpt|qwen|claude|engine), (created|made|trained) by (openai|alibaba cloud|anthropic|somebody|the engine project).( you are a helpful assistant.)?"])


def questions(path):
    """-> {topic: ([pattern, ...], [pattern that is kept for validation, ...])}; one in ten is, by its checksum."""
    out, topic = {}, None
    for line in open(path, encoding="utf-8"):
        line = line.strip()
        if line.startswith("[") and line.endswith("]"): topic = out.setdefault(line[1:-1], ([], []))
        elif line and not line.startswith("#"): topic[zlib.crc32(line.encode()) % 10 == 0].append(parse(line))
    return out


WRITTEN = questions(HERE + "/questions.txt")
NOTHING = ([], [])
USAGE = [(key, answer, parsed(a), parsed(n), names, parsed(q), parsed(MORE.get(key, [])), WRITTEN.get(key, NOTHING)) for key, answer, a, n, names, q in TOPICS]
assert not set(MORE) - {topic[0] for topic in TOPICS}
assert not set(WRITTEN) - {topic[0] for topic in TOPICS} - {key for key, _, _ in SMALL_TALK} - {"unknown"}, set(WRITTEN) - {topic[0] for topic in TOPICS}
SYNONYM = {word: group for group in reversed(SYNONYMS) for word in group}
TALK = [(answer, parsed(q), WRITTEN.get(key, NOTHING)) for key, answer, q in SMALL_TALK]
NEGATIVE = parsed(NEGATIVES)
ELSEWHERE = [topic for topic in USAGE if topic[2] and topic[0] not in ("generate", "chat", "serve", "deploy", "stdin", "download", "real", "image", "tls", "train", "os", "page", "token", "completions", "curl", "cross", "python", "gpu", "privacy")]
# Those that look most like questions it can answer come more often.
NEAR = parsed([n for n in NEGATIVES if "capital" in n or "symbol" in n or "number {B}" in n or "{f}" in n])

CAPITAL = parsed(["what is the capital( city)? of {c}", "what's the capital( city)? of {c}", "(which|what) (city|town) is the capital( city)? of {c}", "(the )?capital( city)? of {c}", "{c}('s)? capital", "name (the|me the) capital( city)? of {c}", "what is {c}'s capital( city)?", "(what|which) is the capital of {c}", "where is the (government|parliament) of {c}", "what capital (does|has) {c}( have)?", "tell me {c}'s capital", "which city is {c}'s capital", "{c}: capital",
                  "i need the capital of {c}", "give me the capital of {c}", "do you know the capital of {c}", "what do you call the capital of {c}", "what is the name of the capital of {c}", "the capital of {c} is", "{c} has which capital", "in {c}, (what|which city) is the capital", "how is the capital of {c} called", "what is the seat of government of {c}", "and of {c}", "(and|what about|how about) {c}", "and the capital of {c}", "which is the main city of {c}", "(what|which) (city|town|place) is {c} (ruled|run|administered) from", "{c} is (ruled|run|administered) from (where|which town|what city)", "(i|we) (need|want) (to know |to learn )?(the |a )?capital( city)? (of|for) {c}( for (a|my) (test|school|exam|crossword|essay|presentation))?", "(for|in) (my|a) (test|quiz|exam|crossword): capital of {c}", "(i )?(forgot|have forgotten|can't remember|do not know) (the capital of {c}|{c}'s capital)", "(the )?(city|town) that is the capital of {c}", "where (does|do) the (ministers|government|president) of {c} (sit|work|meet)", "(what|which) city serves as {c}'s capital", "{c} (-|:) (what is the )?capital"])
REVERSE = parsed(["(which|what) country has (the capital )?{k}( as its capital)?", "{k} is the capital of (which|what) (country|land|state|nation)", "{k} is the capital of what", "(which|what) country's capital is {k}", "what is {k} the capital of", "of which country is {k} the capital", "(which|what) country is {k} the capital of", "(which|what) (nation|state|land) has {k} as (its )?capital", "{k} is (the|a) capital of", "name the country (whose|with the) capital (is )?{k}", "in (which|what) country is {k}", "{k} belongs to which country", "where is {k}", "(which|what) (country|nation|state) (does|do) (the (city|capital|town) (of )?)?{k} (belong to|rule|lead|head)", "{k} is the capital (city )?of whom", "whose (capital|capital city|chief city) is {k}", "{k} (-|:) capital of (what|which country)", "the country (whose capital is|ruled from|run from) {k}", "(for which|of what|to which) (country|nation|land) is {k} (the )?(capital|seat of government)"])
CONTINENT = parsed(["(which|what|on which|in which|on what) continent is {c}( in| on)?", "{c} is (in|on) (which|what) continent", "(which|what) continent does {c} belong to", "what is the continent of {c}", "where( in the world| on earth)? is {c}( located| situated)?", "where (can i find|do i find|lies) {c}", "continent of {c}", "is {c} in (africa|europe|asia)", "what part of the world is {c} in"])
E_NUMBER = parsed(["what is the (atomic |element |)number of {e}", "(which|what) (atomic |)number (has|does) {e}( have)?", "(which|what) number is {e}", "{e}('s)? atomic number", "atomic number of {e}", "what('s| is) {e}'s (atomic )?number", "how many protons (does|has|are in) {e}( have)?", "number of {e}( in the periodic table)?", "where is {e} in the periodic table", "what (place|position) (has|does) {e}( have)? in the periodic table", "how many protons are there in (a )?{e}( atom)?", "give (me )?the atomic number of {e}", "at (which|what) (number|place) is {e}", "proton count of {e}"])
E_SYMBOL = parsed(["what is the (chemical |)symbol (for|of) {e}", "what('s| is) {e}'s( chemical)? symbol", "(chemical )?symbol (of|for) {e}", "{e} symbol", "how is {e} (abbreviated|written)( in chemistry| in the periodic table)?", "(which|what) symbol (has|does) {e}( have)?", "which letters? stands? for {e}", "what (letter|letters) (is|are) used for {e}", "(what is|give me) the abbreviation (of|for) {e}", "how do (you|i|chemists) (write|abbreviate) {e}", "what does {e} look like in formulas", "(what|which) is the symbol of (the element )?{e}"])
E_OF_SYMBOL = parsed(["(which|what) (chemical )?element has the (chemical )?symbol {s}", "(which|what) (chemical )?element is {s}", "what does {s} (stand for|mean)( in chemistry| in the periodic table)?", "{s} is the symbol (of|for) (which|what)( element)?", "what (is|element is) {s} in (chemistry|the periodic table)", "(the )?element (with the symbol )?{s}", "name the element with (the )?symbol {s}", "what is the element {s}", "which element is abbreviated( as)? {s}", "{s} (is which element|element)", "for (which|what) element does {s} stand", "chemical symbol {s}", "(the )?(letter|letters|abbreviation|sign) {s} (mean|means|stand for|stands for|is|are)( which| what)? ?(element)?", "{s} (means|is|denotes|abbreviates|represents) (which|what) element", "(which|what) element (do|does) (the (letter|letters|symbol|sign) )?{s} (denote|mean|represent|abbreviate|refer to)", "(what|which) (chemical )?element (goes by|is written|is denoted by|is meant with|hides behind) {s}", "in (chemistry|the periodic table|formulas) (what|which element) is {s}"])
E_OF_NUMBER = parsed(["(which|what) element (has|is|has the) (atomic )?number {n}", "what('s| is) element( number)? {n}", "element( number)? {n}", "(which|what) element has {n} protons", "atomic number {n}", "(the )?element with (atomic )?number {n}", "name the element (with|number|with the number) {n}", "number {n} in the periodic table", "(which|what) is the element with {n} protons", "what is number {n} in the periodic table", "element no\\. {n}", "which element is at (place|position) {n}", "(which|what) (chemical )?element (is|comes|stands) (the )?{n}(st|nd|rd|th)?( in the (list|table|periodic table))?", "(the )?{n}(st|nd|rd|th) element", "(who|what) (is|has|carries) number {n} (among|of|in) the (elements|table)", "{n} protons( is| are| make)?( which| what)?( element)?", "(an|the) atom (with|of|that has) {n} protons", "number {n} (among|of) the elements"])
E_ABOUT = parsed(["what is {e}", "tell me about {e}", "what do you know about {e}", "is {e} an element", "{e}", "(describe|explain) {e}", "the element {e}", "facts about {e}", "what (kind of )?element is {e}"])
PLUS = parsed(["{a}( |){o}( |){b}( |)(=|)", "what is {a} {w} {b}", "what('s| is) {a}( |){o}( |){b}", "how much is {a} {w} {b}", "{a} {w} {b}", "(calculate|compute|work out|solve|evaluate) {a} {w} {b}", "how much is {a}( |){o}( |){b}", "(calculate|compute|solve) {a}( |){o}( |){b}", "what does {a} {w} {b} (make|give|equal)", "{a} {w} {b} (is|equals|makes)( what)?", "what is the result of {a} {w} {b}", "can you (calculate|compute|do) {a} {w} {b}", "(do|make) the sum {a} {w} {b}", "and {a} {w} {b}", "what do you get (for|from) {a} {w} {b}"])
SPECIAL_SUM = {"+": parsed(["(what (do i get|is it|comes out) (if|when) i )?add {a} (and|to) {b}", "how much (do i|does one) (get|have) (when|if) (i|one) adds? {a} (and|to) {b}", "(what is )?the sum of {a} and {b}", "{a} and {b} (is|makes|make) what", "how much (are|is) {a} and {b}", "if i have {a} apples and get {b} more, how many( do i have)?"]), "-": parsed(["(please )?(subtract|deduct) {b} from {a}( please)?", "how much (is|remains|is left) (of {a} )?(if|when) i (take|subtract) {b} (from {a})", "take {b} (away )?from {a}", "(what is )?the difference (of|between) {a} and {b}", "{a} take away {b}", "if i have {a} apples and eat {b}, how many are left"]),
               "*": parsed(["multiply {a} (by|and|with) {b}", "(what is )?the product of {a} and {b}"]), "/": parsed(["divide {a} by {b}", "how often does {b} go into {a}", "how many times does {b} go into {a}"])}
OPERATORS = {"+": (["+"], ["plus", "and", "plus", "added to"]), "-": (["-"], ["minus", "minus", "less"]), "*": (["*", "x", "×"], ["times", "multiplied by", "times", "x"]), "/": (["/", "÷", ":"], ["divided by", "divided by", "over"])}
WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
CALL_ME = parsed(["my name is {N}", "i('m| am) {N}", "(please )?call me {N}", "(hi|hello|hey)(,|) (i am|i'm|my name is|this is) {N}", "{N} is my name", "i am called {N}", "you can call me {N}", "my name's {N}", "(they|people|my friends) call me {N}", "this is {N}( speaking| here)?", "{N} here", "the name is {N}", "i go by {N}", "remember (that )?(my name is|i am|me,? i am) {N}", "(hi|hello)(,|) {N} here", "my first name is {N}"])
MY_NAME = parsed(["what is my name", "what's my name", "who am i", "do you (know|remember) (my name|who i am|me)", "(can you )?tell me my name", "say my name", "what am i called", "how am i called", "(remember|know) my name", "what did i say my name was", "my name", "what was my name( again)?", "have you forgotten my name", "(and )?what's my name again", "do you still know (my name|who i am)", "what do you call me", "which name did i (give|tell) you", "what name did i give( you)?", "how do i call myself", "repeat my name"])


class Maker:
    def __init__(self, cache, seed, held_back=(), all_questions=False, focus=False):
        """all_questions: the written ones that are kept for validation, too; focus: mostly single written questions, to go on from weights that know the rest"""
        self.all_questions, self.focus = all_questions, focus
        self.rng = random.Random(seed)
        self.countries = [c for c in facts.countries(cache) if c["state"]]
        self.weights = [3.0 if c["famous"] else 0.6 for c in self.countries]
        self.elements = facts.elements(cache)
        self.held_back = set(held_back)
        self.capital_of = {}
        for c in self.countries:
            self.capital_of.setdefault(c["capital"], []).append(c)
        usage_words = set(re.findall(r"[a-z]+", " ".join(" ".join(t[2]) + " " + " ".join(t[3]) + " ".join(t[5]) for t in TOPICS).lower()))
        fact_words = {c["name"].lower() for c in self.countries} | {c["capital"].lower() for c in self.countries} | {e["name"].lower() for e in self.elements} | {e["symbol"].lower() for e in self.elements}
        talk_words = set(re.findall(r"[a-z]+", " ".join(" ".join(q) for _, _, q in SMALL_TALK)))
        words = [w.strip() for w in open(cache + "/words.txt") if re.fullmatch(r"[a-z]{3,11}", w.strip())]
        self.words = [w for w in words if w not in usage_words and w not in fact_words and w not in talk_words and w != "aluminum"]
        known = {a.lower() for c in self.countries for a in c["aliases"] + [c["name"], c["capital"]]}
        self.states = [s for s in STATES if s] + [c["name"] for c in facts.countries(cache) if not c["state"]]
        self.places = [p for p in PLACES if p]
        self.unknown_places = [p for p in self.places if p.lower() not in known]
        self.known = known
        self.symbols = {e["symbol"].lower() for e in self.elements}

    # --- slots -------------------------------------------------------------------------------------------------------------------
    def made_up(self):
        rng = self.rng
        parts = ["bra", "zo", "lin", "ka", "tor", "mel", "fro", "vi", "gur", "ta", "pel", "shu", "nor", "dra", "qui", "be", "lo", "ran", "sti", "my", "ul", "xa", "gre", "ho", "wen", "ja", "pri", "cu", "el", "am"]
        return "".join(rng.choice(parts) for _ in range(rng.choice([2, 2, 3]))) + rng.choice(["", "", "n", "s", "r", "th", "d", "k"])

    def fake_country(self):
        name = (self.made_up() + self.rng.choice(["ia", "land", "stan", "a", "istan", "", "ovia", "onia"])).capitalize()
        return self.fake_country() if name.lower() in self.known else name

    def misspelt(self):
        name = self.rng.choice(self.countries)["name"]
        i = self.rng.randrange(len(name) - 1)
        other = self.rng.choice([name[:i] + name[i + 1] + name[i] + name[i + 2:], name[:i] + name[i + 1:], name[:i] + self.rng.choice("abcdefghijklmnoprstuvwz") + name[i + 1:]])
        return None if other.lower() in self.known else other

    def person(self):
        r = self.rng.random()
        if r < 0.45: return self.rng.choice(PEOPLE)
        if r < 0.8: return self.rng.choice(NAMES) + " " + self.made_up().capitalize()
        return self.made_up().capitalize() + " " + self.made_up().capitalize()

    def country(self):
        c = self.rng.choices(self.countries, self.weights)[0]
        if c["aliases"] and self.rng.random() < 0.6: return c, self.rng.choice(c["aliases"])
        name = c["name"]
        if re.search(r"Islands$|^United|Republic|Netherlands|Maldives|Philippines|Bahamas|Gambia|Territor|Comoros|Seychelles|Emirates", name) and self.rng.random() < 0.6: name = "the " + name
        return c, name

    def element(self):
        e = self.rng.choices(self.elements, [3.0 if e["number"] <= 30 or e["symbol"] in ("Ag", "Au", "Sn", "Pb", "Hg", "Pt", "U", "I", "W", "Pu", "Ra", "Rn", "As", "Br", "Kr", "Sb", "Xe", "Ba", "Cs", "Zr") else 0.5 for e in self.elements])[0]
        name = self.rng.choice(e["aliases"]) if e["aliases"] and self.rng.random() < 0.4 else e["name"]
        return e, name if self.rng.random() < 0.25 else name.lower()

    def thing(self):
        return self.rng.choice(THINGS) if self.rng.random() < 0.55 else self.rng.choice(["the ", "a ", "", "my "]) + self.rng.choice(self.words)

    # --- questions ---------------------------------------------------------------------------------------------------------------
    def fill(self, pattern, values):
        return re.sub(r"\{(\w)\}", lambda m: str(values[m[1]]() if callable(values[m[1]]) else values[m[1]]), expand(pattern, self.rng))

    def written(self, lines):
        return lines[0] + lines[1] if self.all_questions else lines[0]

    def usage(self):
        rng = self.rng
        key, answer, actions, nouns, names, questions, more, lines = rng.choice(USAGE)
        lines = self.written(lines)
        if lines and rng.random() < (0.8 if self.focus else 0.55): return self.vary(expand(rng.choice(lines), rng), key), answer
        kinds, weights = [], []
        for kind, items, weight in (("a", actions, 1.0), ("n", nouns, 0.6), ("k", names, 0.5), ("q", questions, 1.0), ("m", more, 1.6)):
            if items:
                kinds.append(kind)
                weights.append(weight * min(len(items), 6) ** 0.5)
        kind = rng.choices(kinds, weights)[0] if kinds else "w"
        if kind == "q":
            text = expand(rng.choice(questions), rng)
        elif kind == "m":
            # Half are phrases ("cap the reply at 50 tokens") that follow "how do I" as well as they stand alone.
            text = expand(rng.choice(more), rng)
            if rng.random() < 0.3 and re.match(r"(how|what|which|where|why|who|is|are|do|does|can|could|may|will|i|the|my|it|you|no|a|an) ", text) is None: text = (expand(rng.choice(HOW), rng) + " " + text).strip()
        elif kind == "a":
            text = (expand(rng.choice(HOW), rng) + " " + expand(rng.choice(actions), rng)).strip()
        elif kind == "n":
            text = expand(rng.choice(SET), rng) + " " + expand(rng.choice(nouns), rng)
        elif kind == "w":
            text = expand(rng.choice(lines), rng)
        else:
            head, name = expand(rng.choice(NAMED), rng), rng.choice(names)
            if head == "what does": text = head + " " + name + rng.choice(AFTER_WHAT_DOES)
            elif head == "how does": text = head + " " + name + " work"
            elif head == "what is X for": text = "what is " + name + " for"
            else: text = (head + " " + name).strip()
        return (text if kind == "k" else self.vary(text, key)).strip(), answer

    # --- other ways to say it ------------------------------------------------------------------------------------------------------
    def vary(self, text, key):
        """The same question with other, fewer or more words: what is left to tell it by are the words that matter."""
        rng = self.rng
        if rng.random() < 0.3: text = self.other_words(text)
        if key not in WHOLE:
            r = rng.random()
            if r < 0.2: text = self.fewer_words(text, 0.5)
            elif r < 0.26: text = self.fewer_words(text, 1.0)
            if rng.random() < 0.08:
                words = text.split(" ")
                words.insert(rng.randrange(0, len(words) + 1), rng.choice(["actually", "just", "really", "still", "now", "maybe", "even", "simply", "always", "please", "somehow", "here"]))
                text = " ".join(words)
        if key not in ALONE and rng.random() < 0.08: text += expand(rng.choice(SUFFIX), rng)
        r = rng.random()
        if r < 0.08 and key not in ALONE: text = expand(rng.choice(CONTEXT), rng) + rng.choice([". ", ", ", "; ", ": ", ". ", ". ", " - "]) + text
        elif r < 0.11 and key not in ALONE: text += rng.choice([". ", ", ", "? ", "? "]) + expand(rng.choice(AFTERWARDS), rng)
        return text

    def fewer_words(self, text, share):
        words = text.split(" ")
        kept = [word for word in words if word not in FILLERS or self.rng.random() >= share]
        if sum(word not in FILLERS for word in kept) < 2: return text
        if share == 1.0 and self.rng.random() < 0.2: self.rng.shuffle(kept)
        return " ".join(kept)

    def other_words(self, text):
        """One or two words in the place of others that mean much the same."""
        words = text.split(" ")
        known = [i for i, word in enumerate(words) if word in SYNONYM]
        for i in self.rng.sample(known, min(len(known), self.rng.choice([1, 1, 2]))): words[i] = self.rng.choice(SYNONYM[words[i]])
        return " ".join(words)

    def talk(self):
        answer, questions, lines = self.rng.choice(TALK)
        lines = self.written(lines)
        return expand(self.rng.choice(lines if lines and self.rng.random() < 0.5 else questions), self.rng), answer

    def capital(self):
        c, name = self.country()
        r = self.rng.random()
        if r < 0.6:
            return self.fill(self.rng.choice(CAPITAL), {"c": name}), f"The capital of {name} is {c['capital'].rstrip('.')}."
        if r < 0.86:
            of = self.capital_of[c["capital"]]
            capital = c["capital"] if self.rng.random() < 0.9 else self.ascii(c["capital"])
            best = max(of, key=lambda o: self.weights[self.countries.index(o)])
            return self.fill(self.rng.choice(REVERSE), {"k": capital}), f"{best['capital']} is the capital of {best['aliases'][-1] if best['code'] in ('GB', 'NL', 'US', 'AE', 'PH') else best['name']}."
        return self.fill(self.rng.choice(CONTINENT), {"c": name}), f"{name[0].upper() + name[1:]} is in {c['continent']}."

    @staticmethod
    def ascii(text):
        import unicodedata
        return "".join(ch for ch in unicodedata.normalize("NFD", text) if not unicodedata.combining(ch))

    def element_question(self):
        e, name = self.element()
        answer = f"{e['name']} ({e['symbol']}) is element number {e['number']}."
        patterns = self.rng.choices([E_NUMBER, E_SYMBOL, E_OF_SYMBOL, E_OF_NUMBER, E_ABOUT], [3, 3, 3, 3, 1])[0]
        return self.fill(self.rng.choice(patterns), {"e": name, "s": e["symbol"], "n": e["number"]}), answer

    def sum(self):
        rng = self.rng
        op = rng.choice("++--*/")
        big = rng.random() < 0.12
        if big:
            a, b = rng.choice([(rng.randrange(100, 10 ** rng.choice([3, 4, 5, 6])), rng.randrange(2, 10 ** rng.choice([2, 3, 4]))), (rng.randrange(2, 100), rng.randrange(100, 10000))] + ([(rng.randrange(13, 100), rng.randrange(13, 100))] * 2 if op == "*" else []))
        elif op == "+": a, b = rng.randrange(0, 26), rng.randrange(0, 26)
        elif op == "-":
            a = rng.randrange(0, 26)
            b = rng.randrange(0, a + 1)
        elif op == "*": a, b = rng.randrange(0, 13), rng.randrange(0, 13)
        else:
            b = rng.randrange(1, 13)
            a = b * rng.randrange(0, 13)
        signs, names = OPERATORS[op]
        result = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a // b}[op]()
        answer = UNKNOWN if big else f"{a} {op} {b} = {result}"
        word = not big and max(a, b) <= 20 and rng.random() < 0.2
        show = (lambda n: WORDS[n]) if word else str
        patterns = SPECIAL_SUM[op] if rng.random() < 0.2 else PLUS
        return self.fill(rng.choice(patterns), {"a": show(a), "b": show(b), "o": rng.choice(signs), "w": rng.choice(names)}), answer

    def slots(self):
        rng = self.rng
        return {"t": self.thing, "w": lambda: rng.choice(self.words), "p": self.person, "l": lambda: rng.choice(self.places), "c": lambda: self.country()[1], "e": lambda: self.element()[1], "j": lambda: rng.choice(JOBS), "v": lambda: rng.choice(VERBS), "a": lambda: rng.choice(ADJ),
                  "n": lambda: rng.randrange(2, 1000), "y": lambda: rng.randrange(1500, 2030), "s": lambda: self.made_up().capitalize(), "f": lambda: "--" + (rng.choice(self.words) if rng.random() < 0.6 else self.made_up()) + rng.choice(["", "", "-" + rng.choice(self.words)]), "x": self.fake_country, "S": lambda: rng.choice(self.states),
                  "M": lambda: self.misspelt() or self.fake_country(), "B": lambda: rng.randrange(119, 1000), "Z": self.no_symbol, "Q": lambda: rng.choice(self.unknown_places), "g": self.made_up}

    def unknown(self):
        rng = self.rng
        r = rng.random() * (0.7 if self.focus else 1.0)
        if r < 0.12:  # what is known of engine, asked of something else
            topic = rng.choice(ELSEWHERE)
            return self.vary((expand(rng.choice(HOW), rng) + " " + expand(rng.choice(topic[2]), rng)).strip(), "who") + rng.choice([" in ", " in ", " with ", " on ", " for ", " of "]) + rng.choice(APPS), UNKNOWN
        lines = self.written(WRITTEN.get("unknown", NOTHING))
        pattern = rng.choice(NEAR if r < 0.3 else lines if r < 0.6 and lines else NEGATIVE)
        text = self.fill(pattern, self.slots())
        return (self.vary(text, "unknown") if rng.random() < 0.7 else text), UNKNOWN

    def no_symbol(self):
        while True:
            s = self.rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + self.rng.choice(["", "a", "b", "j", "q", "v", "w", "x", "z", "k", "y"])
            if s.lower() not in self.symbols: return s

    def name(self):
        return self.rng.choice(NAMES) if self.rng.random() < 0.5 else self.made_up().capitalize() if self.rng.random() < 0.75 else self.rng.choice(self.words).capitalize()

    # --- how people type -----------------------------------------------------------------------------------------------------------
    def roughen(self, text, keep_case=False, statement=False):
        rng = self.rng
        if rng.random() < 0.13: text = expand(PREFIX[0] if statement else rng.choice(PREFIX), rng) + text
        if rng.random() < 0.05: text += rng.choice([" please", " pls", ", please", " thanks", ", thanks", " now", " then", " again", " exactly"])
        r = rng.random()
        if r < 0.45: text = text[0].upper() + text[1:]
        elif r < 0.62 and not keep_case: text = text.lower()
        elif r < 0.63 and not keep_case: text = text.upper()
        if text[-1] in ".?!": pass
        elif re.match(r"(?i)(i|i'm|i'd|my|the|it) ", text) is None and rng.random() < 0.6: text += "?"
        elif rng.random() < 0.3: text += rng.choice([".", "!", "??", " ?", "?", "..."])
        if r < 0.5: text = re.sub(r"\bi\b", "I", text)
        if not keep_case and (r < 0.5 or rng.random() < 0.3) and rng.random() < 0.8: text = " ".join(WRITTEN_AS.get(word, word) if (word := part.rstrip("?.,!;:")) == part else WRITTEN_AS.get(word, word) + part[len(word):] for part in text.split(" "))
        return text

    def question(self, kind=None):
        while True:
            kind = kind or self.rng.choices(["usage", "capital", "element", "sum", "talk", "unknown"], [60, 8, 5, 3, 8, 16] if self.focus else [40, 17, 11, 8, 8, 16])[0]
            text, answer = {"usage": self.usage, "capital": self.capital, "element": self.element_question, "sum": self.sum, "talk": self.talk, "unknown": self.unknown}[kind]()
            if kind in ("usage", "unknown", "talk") and self.rng.random() < 0.13: text = self.typo(self.typo(text) if self.rng.random() < 0.3 else text)
            if kind in ("capital", "element") and self.rng.random() < 0.1: text = self.typo(text, r"\b[a-z]{5,}\b")  # no name of a country or place
            text = self.roughen(text, keep_case=kind == "element", statement=kind == "talk")
            if text and normal(text) not in self.held_back: return text, answer

    def validation(self, n=1):
        """-> [(kind, question, answer)]: the written questions that are kept out of training, n wordings of each"""
        out = []
        for kind, lines, answer in [("usage", t[7][1], t[1]) for t in USAGE] + [("talk", t[2][1], t[0]) for t in TALK] + [("unknown", WRITTEN.get("unknown", NOTHING)[1], UNKNOWN)]:
            for line in lines:
                for text in {self.fill(line, self.slots()) for _ in range(n)}: out.append((kind, self.roughen(text, statement=kind == "talk"), answer))
        return out

    def typo(self, text, words=r"[a-z]{5,}"):
        long = [m for m in re.finditer(words, text)]
        if not long: return text
        m = self.rng.choice(long)
        i = self.rng.randrange(m.start() + 1, m.end() - 1)
        return self.rng.choice([text[:i] + text[i + 1:], text[:i] + text[i] + text[i:], text[:i] + text[i + 1] + text[i] + text[i + 2:], text[:i] + self.rng.choice("abcdefghijklmnopqrstuvwxyz") + text[i + 1:]])

    def dialogue(self):
        """-> (system prompt or None, [(question, answer), ...])"""
        rng = self.rng
        system = expand(rng.choice(SYSTEM), rng) if rng.random() < 0.08 else None
        if system and rng.random() < 0.7: system = system[0].upper() + system[1:]
        n = rng.choices([1, 2, 3, 4, 6, 9], [92, 4, 2, 2, 0, 0] if self.focus else [66, 14, 8, 6, 4, 2])[0]
        turns = [self.question() for _ in range(n)]
        r = rng.random()
        if r < 0.11:
            name = self.name()
            said = self.roughen(self.fill(rng.choice(CALL_ME), {"N": name}), True, True).rstrip("?")
            if rng.random() < 0.3: said, name = said.lower(), name.lower()
            turns = turns[:4]
            at = rng.randrange(0, len(turns) + 1) if rng.random() < 0.3 else 0
            turns.insert(at, (said, f"Nice to meet you, {name}!"))
            turns.insert(rng.randrange(at + 1, len(turns) + 1), (self.roughen(expand(rng.choice(MY_NAME), rng)), f"Your name is {name}."))
            if rng.random() < 0.2:
                other = self.name()
                turns += [(self.fill(rng.choice(CALL_ME), {"N": other}), f"Nice to meet you, {other}!"), (self.roughen(expand(rng.choice(MY_NAME), rng)), f"Your name is {other}.")]
        elif r < 0.14:
            turns.insert(rng.randrange(0, len(turns) + 1), (self.roughen(expand(rng.choice(MY_NAME), rng)), "I don't know your name yet. Tell me: my name is ..."))
        return system, turns


def normal(text):
    return re.sub(r"[^\w+*/=.-]+", " ", text.lower()).strip(" .")


def held_back_questions():
    """Both lists, which training must not see."""
    paths = [f"{HERE}/{name}.tsv" for name in ("held_back", "held_back_2")]
    return {normal(line.split("\t")[1]) for path in paths if os.path.exists(path) for line in open(path, encoding="utf-8") if line.strip() and not line.startswith("#")}


if __name__ == "__main__":
    import sys
    maker = Maker(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0, held_back_questions())
    for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 40):
        print(maker.dialogue())
