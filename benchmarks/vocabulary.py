"""Find COCO's eighty objects in a text: our own vocabulary of names, synonyms and plurals.

Words are matched in lower case, longest phrase first, so that "hot dog" is no dog and "teddy bear"
no bear. Phrases of `NOT_OBJECTS` swallow words that mean something else ("train tracks", "tv show").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmhall.errors import DataError

SYNONYMS: dict[str, str] = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, adult, human, player, "
    "pedestrian, passenger, rider, skier, surfer, skateboarder, snowboarder, cyclist, bicyclist, biker, "
    "motorcyclist, driver, pilot, chef, waiter, waitress, worker, officer, policeman, fireman, "
    "firefighter, soldier, student, teacher, batter, pitcher, catcher, umpire, referee, athlete, swimmer, "
    "vendor, customer, tourist, bride, groom, mother, father, son, daughter, brother, sister, "
    "spectator, bystander, farmer, doctor, nurse, shopper, commuter, traveler, teenager, "
    "tennis player, baseball player, soccer player, men, women, "
    "people, children, female, male, mom, dad, grandmother, grandfather, wife, husband, dancer, "
    "performer, singer, businessman, businesswoman, clown, cowboy, jockey, sailor, monk, skater, "
    "baker, cop, coworker, politician, villager, hunter, camper, grandchild, serviceman, walker, foreigner, patient, "
    "football player, basketball player, volleyball player, softball player",
    "bicycle": "bike, mountain bike, road bike, tricycle, trike, unicycle, push bike",
    "car": "automobile, sedan, suv, taxi, cab, hatchback, convertible, limousine, police car, minivan, van, jeep, coupe, "
    "station wagon, sports car, taxicab, limo",
    "motorcycle": "motorbike, moped, scooter, motor cycle, motor bike, dirt bike, motor scooter",
    "airplane": "plane, aeroplane, aircraft, jet, airliner, biplane, jumbo jet, seaplane, fighter jet, passenger jet, "
    "jet plane, jetliner, air plane, monoplane, airbus",
    "bus": "minibus, school bus, double decker, double decker bus, double-decker, double-decker bus, tour bus, city bus, "
    "trolley bus, trolleybus, trolley",
    "train": "locomotive, steam train, subway, subway train, passenger train, freight train, tram, tramway, monorail, metro, "
    "railcar, caboose, commuter train, train engine",
    "truck": "pickup, pickup truck, pick-up, pick-up truck, lorry, fire truck, firetruck, fire engine, semi truck, "
    "semi-truck, tow truck, dump truck, delivery truck, trailer truck, food truck, garbage truck, "
    "tractor trailer, hauler",
    "boat": "ship, sailboat, sailing boat, canoe, kayak, ferry, yacht, rowboat, row boat, motorboat, speedboat, raft, "
    "barge, cruise ship, gondola, dinghy, tugboat, catamaran, watercraft, fishing boat, "
    "liner, powerboat, skiff, pontoon, houseboat, vessel, trawler, ferryboat, schooner, paddleboat, lifeboat, "
    "freighter, steamboat, riverboat, battleship, steamship",
    "traffic light": "traffic signal, stoplight, stop light, street light, streetlight, red light, green light, signal light",
    "fire hydrant": "hydrant, fireplug, water hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench, wooden bench, pew",
    "bird": "seagull, gull, pigeon, duck, goose, geese, swan, parrot, owl, eagle, hawk, hen, rooster, crow, "
    "ostrich, peacock, penguin, pelican, flamingo, sparrow, duckling, heron, hummingbird, "
    "woodpecker, stork, parakeet, cockatoo, vulture, falcon, turkey, raven, dove, bluejay, "
    "blue jay, macaw, songbird, waterfowl, robin, mallard, finch, seabird, osprey, blackbird, fowl, shorebird, egret, "
    "quail, bluebird, kingfisher, buzzard, cormorant, loon, gosling, waterbird, pheasant, sandpiper, oriole, warbler, "
    "magpie, cockatiel, puffin, condor, peafowl",
    "cat": "kitten, kitty, tabby, feline, tomcat, tabby cat",
    "dog": "sheep dog, puppy, pup, hound, terrier, poodle, labrador, retriever, golden retriever, bulldog, dachshund, beagle, "
    "collie, pug, chihuahua, husky, dalmatian, german shepherd, corgi, spaniel, rottweiler, canine, doggy, sheepdog, mutt, "
    "schnauzer, pitbull, doggie, doberman, greyhound, whippet",
    "horse": "pony, foal, colt, mare, stallion, mustang, racehorse, bronco, donkey, mule, clydesdale, equine, palomino",
    "sheep": "lamb, ram, ewe, goat",
    "cow": "cattle, bull, calf, ox, oxen, bison, buffalo, heifer, bovine, longhorn, holstein, zebu",
    "elephant": "baby elephant",
    "bear": "polar bear, grizzly, grizzly bear, brown bear, black bear, panda, panda bear, bear cub",
    "zebra": "",
    "giraffe": "",
    "backpack": "knapsack, rucksack, back pack, book bag, bookbag, schoolbag",
    "umbrella": "parasol, beach umbrella, sunshade",
    "handbag": "purse, hand bag, shoulder bag, tote bag, pocketbook, briefcase, messenger bag",
    "tie": "necktie, bow tie, bowtie, neck tie",
    "suitcase": "luggage, baggage, suit case, carry-on, travel bag",
    "frisbee": "flying disc, flying disk, disc golf disc",
    "skis": "ski, pair of skis, snow skis",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, beach ball, bowling ball, rugby ball, golf ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "baseball mitt, mitt, catchers mitt",
    "skateboard": "skate board, longboard, long board",
    "surfboard": "surf board, bodyboard, boogie board, paddleboard, paddle board, wakeboard, skimboard, shortboard",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "beer bottle, wine bottle, water bottle, bottled water, soda bottle, flask",
    "wine glass": "wineglass, wine goblet, champagne glass, goblet, champagne flute",
    "cup": "mug, coffee cup, teacup, tea cup, coffee mug, paper cup, plastic cup, measuring cup, drinking glass",
    "fork": "pitchfork",
    "knife": "pocketknife, butter knife, steak knife, cleaver, kitchen knife, dagger",
    "spoon": "teaspoon, tablespoon, ladle, wooden spoon",
    "bowl": "soup bowl, mixing bowl, salad bowl",
    "banana": "plantain",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, sub sandwich, panini, blt, grilled cheese, bagel sandwich, pita sandwich",
    "orange": "tangerine, mandarin, clementine, satsuma",
    "broccoli": "",
    "carrot": "baby carrot",
    "hot dog": "hotdog, frankfurter, chili dog",
    "pizza": "pepperoni pizza, cheese pizza",
    "donut": "doughnut, bagel",
    "cake": "cheesecake, cupcake, birthday cake, wedding cake, shortcake, chocolate cake, pancake, coffeecake, layer cake",
    "chair": "armchair, stool, seat, rocking chair, office chair, high chair, lawn chair, folding chair, "
    "barstool, bar stool, beach chair, lounge chair, easy chair, highchair",
    "couch": "sofa, recliner, loveseat, love seat, futon, settee, sectional, chesterfield",
    "potted plant": "houseplant, house plant, pot plant, flowerpot, flower pot, bonsai, potted flower, potted tree",
    "bed": "bunk bed, mattress, crib, cot, hospital bed, double bed, king bed, queen bed, bunk",
    "dining table": "table, desk, dinner table, kitchen table, coffee table, tabletop, picnic table, end table",
    "toilet": "urinal, commode, lavatory, potty, toilet seat, toilet bowl",
    "tv": "television, tv set, television set, television screen, tv screen, flat screen, flatscreen, flat screen tv, "
    "flat-screen, flat screen television, monitor, computer monitor",
    "laptop": "laptop computer, notebook computer, computer, macbook, netbook",
    "mouse": "computer mouse, wireless mouse, mice",
    "remote": "remote control, tv remote, wii remote, wiimote",
    "keyboard": "computer keyboard, key board",
    "cell phone": "cellphone, mobile phone, phone, smartphone, smart phone, iphone, telephone, cellular phone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop, stove top oven, stove top, cooktop, oven range",
    "toaster": "toaster oven",
    "sink": "washbasin, basin, kitchen sink, bathroom sink, wash basin",
    "refrigerator": "fridge, freezer, mini fridge, icebox",
    "book": "novel, textbook, notebook, paperback, cookbook",
    "clock": "alarm clock, wall clock, grandfather clock, clock tower, clock face",
    "vase": "flower vase, urn, glass vase",
    "scissors": "shears, pair of scissors, scissor",
    "teddy bear": "teddy, stuffed bear, stuffed animal, toy bear, teddybear, plush bear",
    "hair drier": "hair dryer, hairdryer, hairdrier, blow dryer, blowdryer",
    "toothbrush": "electric toothbrush, tooth brush",
}
NOT_OBJECTS = (
    "hot dog stand, "
    "train track, train station, train tracks, bus stop, bus station, bus lane, car park, car door, car seat, boat dock, "
    "tv show, tv stand, tv station, book shelf, book case, bed room, cake stand, cup holder, table cloth, table tennis, "
    "table top, home plate, tennis court, kite string, bird house, bird feeder, "
    "bird cage, dog house, dog bed, cat food, cat tree, orange juice, "
    "apple juice, pizza box, pizza cutter, bottle cap, bottle opener, phone booth, phone number, hot dog bun, "
    "sink cabinet, toilet paper, plane tree, horse race, cow bell, boarding pass, "
    "bear in mind, bow of, watch over, in person, per person, ram into, orange peel, ski lift, ski slope, ski resort, "
    "ski pole, ski poles, ski boots, ski goggles, skate park, skateboard park, skateboard ramp, bike rack, bike lane, "
    "bicycle rack, bicycle lane, truck bed, bed of, book bag strap, clock hands, seat belt, toilet brush, tooth paste, "
    "tennis match, tennis game, tennis ball machine, baby carriage, baby stroller, traffic cone, traffic sign, bus driver seat"
)
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "goose": "geese",
    "ox": "oxen",
    "mouse": "mice",
    "knife": "knives",
    "calf": "calves",
    "sheep": "sheep",
    "bison": "bison",
    "policeman": "policemen",
    "fireman": "firemen",
    "gentleman": "gentlemen",
    "wife": "wives",
    "wolf": "wolves",
    "leaf": "leaves",
    "shelf": "shelves",
    "scarf": "scarves",
    "loaf": "loaves",
    "foot": "feet",
    "tooth": "teeth",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "deer": "deer",
    "fish": "fish",
    "businessman": "businessmen",
    "businesswoman": "businesswomen",
    "aircraft": "aircraft",
    "luggage": "luggage",
    "baggage": "baggage",
    "cattle": "cattle",
    "broccoli": "broccoli",
    "skis": "skis",
    "scissors": "scissors",
    "shears": "shears",
    "people": "people",
    "men": "men",
    "women": "women",
    "children": "children",
    "geese": "geese",
    "mice": "mice",
    "oxen": "oxen",
}
_WORD = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Mention:
    """One object named in a text.

    Attributes:
        name: COCO category.
        start: First character.
        end: One past the last character.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which phrases name which object.

    Attributes:
        table: Phrase in lower case to an object's name, "" for what is no object.
        longest: Most words of a phrase.
    """

    table: Mapping[str, str]
    longest: int

    def mentions(self, text: str) -> list[Mention]:
        """Find every object named in a text, in order, repeats included; a toilet's seat is no chair."""
        words = [(m.group().lower(), m.start(), m.end()) for m in _WORD.finditer(text)]
        found: list[Mention] = []
        at = 0
        while at < len(words):
            for length in range(min(self.longest, len(words) - at), 0, -1):
                phrase = " ".join(word for word, _, _ in words[at : at + length])
                if phrase in self.table:
                    if name := self.table[phrase]:
                        found.append(Mention(name, words[at][1], words[at + length - 1][2]))
                    at += length
                    break
            else:
                at += 1
        if any(m.name == "toilet" for m in found):
            found = [m for m in found if text[m.start : m.end].lower() not in ("seat", "seats")]
        return found


def mentions(text: str) -> list[Mention]:
    """Find every one of COCO's objects named in a text, in order, repeats included.

    >>> [m.name for m in mentions("Two men eat hot dogs near train tracks; a dog watches the TV.")]
    ['person', 'hot dog', 'dog', 'tv']
    """
    return ours().mentions(text)


def plural(word: str) -> str:
    """Return the plural of a noun phrase; its last word changes.

    >>> plural("wine glass"), plural("puppy"), plural("knife"), plural("bus")
    ('wine glasses', 'puppies', 'knives', 'buses')
    """
    head, _, last = word.rpartition(" ")
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif re.search(r"[^aeiou]y$", last):
        many = last[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        many = last + "es"
    else:
        many = last + "s"
    return f"{head} {many}".strip()


def vocabulary(words: Mapping[str, Sequence[str]]) -> Vocabulary:
    """Make a vocabulary of objects and the words for them; names and plurals are added.

    A phrase that several objects claim is that of the object it is the name of, else of the first.
    """
    named = [(_phrase(form), name) for name in words for form in (name, plural(name))]
    named += [(_phrase(form), name) for name in words for word in words[name] for form in (word, plural(word))]
    table: dict[str, str] = {}
    for phrase, name in named:
        table.setdefault(phrase, name)
    for phrase in NOT_OBJECTS.split(", "):
        table.setdefault(phrase, "")
        table.setdefault(plural(phrase), "")
    table.pop("", None)
    return Vocabulary(table, max(len(phrase.split()) for phrase in table))


def synonyms(name: str) -> list[str]:
    """Return our words for an object; none for one that is not COCO's."""
    return [word for word in SYNONYMS.get(name, "").split(", ") if word]


@lru_cache(maxsize=8)
def ours(path: str = "", names: tuple[str, ...] = ()) -> Vocabulary:
    """Return our vocabulary.

    Args:
        path: Of a JSON file, object to its words, which replace ours; "": none.
        names: The objects to look for, beside those of the file; none: COCO's eighty.

    Raises:
        DataError: The file is missing or malformed.
    """
    given = _given(Path(path)) if path else {}
    return vocabulary({name: given.get(name, synonyms(name)) for name in dict.fromkeys((*(names or SYNONYMS), *given))})


def _given(path: Path) -> dict[str, list[str]]:
    what = 'a JSON vocabulary such as {"fox": ["vixen", "fox cub"]}'
    try:
        words = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {what}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); give {what}") from error
    if not isinstance(words, dict) or not words:
        raise DataError(f"{path}: names no objects; give {what}")
    for name, listed in words.items():
        if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
            raise DataError(f"{path}: {name!r} has {listed!r}; give {what}")
    return words


def _phrase(words: str) -> str:
    return " ".join(_WORD.findall(words.lower()))
