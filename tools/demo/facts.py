"""Facts for the demo model: countries from npm's countries-list (MIT, Annexare Studio), elements from Debian's dict-elements (public domain; names,
symbols and numbers only). `facts.py FOLDER` gets both, and a list of words for questions to refuse, with the registries' own clients."""
import glob, gzip, json, os, re, shutil, subprocess, sys

ALIASES = {"US": ["USA", "the USA", "America", "the United States", "the US"], "GB": ["the UK", "UK", "Great Britain", "Britain", "the United Kingdom"], "NL": ["Holland", "the Netherlands"], "CZ": ["Czechia", "the Czech Republic"],
           "CI": ["Ivory Coast", "Côte d'Ivoire", "Cote d'Ivoire"], "MM": ["Burma"], "AE": ["the UAE", "UAE", "the United Arab Emirates"], "PH": ["the Philippines"], "TR": ["Turkey"], "SZ": ["Swaziland", "Eswatini"], "KR": ["South Korea"],
           "KP": ["North Korea"], "CV": ["Cape Verde"], "VA": ["the Vatican", "Vatican City"], "MK": ["North Macedonia", "Macedonia"], "RU": ["Russia"], "CD": ["the Democratic Republic of the Congo", "Congo-Kinshasa", "the DRC"], "CG": ["Congo-Brazzaville", "the Republic of the Congo"],
           "BS": ["the Bahamas"], "MV": ["the Maldives"], "GM": ["the Gambia"], "CF": ["the Central African Republic"], "DO": ["the Dominican Republic"], "TL": ["Timor-Leste", "East Timor"]}
# Corrections of names and capitals that the package gives in an unusual or dated form.
FIXED_CAPITAL = {"KZ": "Astana", "US": "Washington, D.C.", "UA": "Kyiv", "BI": "Gitega", "NR": "Yaren", "SZ": "Mbabane", "LK": "Sri Jayawardenepura Kotte", "GQ": "Malabo", "CD": "Kinshasa", "CG": "Brazzaville"}
# Names that IUPAC has given since the database of 2000, and IUPAC's spelling of two.
IUPAC = {13: ("Al", "Aluminium"), 16: ("S", "Sulfur"), 104: ("Rf", "Rutherfordium"), 105: ("Db", "Dubnium"), 106: ("Sg", "Seaborgium"), 107: ("Bh", "Bohrium"), 108: ("Hs", "Hassium"), 112: ("Cn", "Copernicium"), 113: ("Nh", "Nihonium"),
         114: ("Fl", "Flerovium"), 115: ("Mc", "Moscovium"), 116: ("Lv", "Livermorium"), 117: ("Ts", "Tennessine"), 118: ("Og", "Oganesson")}
OTHER_SPELLINGS = {"Aluminium": ["Aluminum"], "Sulfur": ["Sulphur"], "Caesium": ["Cesium"]}
NO_STATE = "AC AI AQ AS AW AX BL BM BQ BV CC CK CW CX FK FO GF GG GI GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU PF PM PN RE SH SJ SX TA TC TF TK UM VG VI WF YT".split()
FAMOUS = "US GB FR DE IT ES PT NL BE CH AT PL CZ HU GR SE NO FI DK IE RU UA TR CN JP IN KR KP TH VN ID PH MY SG AU NZ CA MX BR AR CL PE CO VE CU EG MA DZ TN ZA NG KE ET GH IL SA AE IR IQ SY JO LB PK BD AF NP LK IS RO BG RS HR SI SK EE LV LT LU".split()


def fetch(folder):
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(folder + "/package/countries.min.json"):
        name = subprocess.run(["npm", "pack", "--silent", "countries-list@3.4.1"], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["tar", "xzf", name], cwd=folder, check=True)
    if not os.path.exists(folder + "/elements/usr/share/dictd/elements.dict.dz"):
        subprocess.run(["apt-get", "download", "dict-elements"], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", glob.glob(folder + "/dict-elements*.deb")[0], folder + "/elements"], check=True)


    if not os.path.exists(folder + "/words.txt"):
        subprocess.run(["apt-get", "download", "wamerican-small"], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", glob.glob(folder + "/wamerican-small*.deb")[0], folder + "/words"], check=True)
        shutil.copyfile(folder + "/words/usr/share/dict/american-english-small", folder + "/words.txt")


def countries(folder):
    data = json.load(open(folder + "/package/countries.min.json"))
    continents = json.load(open(folder + "/package/continents.min.json"))
    out = []
    for code, row in data.items():
        capital = FIXED_CAPITAL.get(code, row["capital"])
        out.append({"code": code, "name": row["name"], "capital": capital, "continent": continents[row["continent"]], "aliases": ALIASES.get(code, []), "famous": code in FAMOUS,
                    "state": bool(capital) and code not in NO_STATE})
    return out


def elements(folder):
    text = gzip.open(folder + "/elements/usr/share/dictd/elements.dict.dz", "rt", encoding="utf-8", errors="replace").read()
    out = {}
    for name, symbol, number in re.findall(r"^(\w+)\nSymbol: (\w+)\nAtomic number: (\d+)", text, re.M):
        out[int(number)] = {"name": name.capitalize(), "symbol": symbol, "number": int(number)}
    for number, (symbol, name) in IUPAC.items():
        out[number] = {"name": name, "symbol": symbol, "number": number}
    for row in out.values():
        row["aliases"] = OTHER_SPELLINGS.get(row["name"], [])
    return [out[n] for n in sorted(out)]


if __name__ == "__main__":
    fetch(sys.argv[1])
