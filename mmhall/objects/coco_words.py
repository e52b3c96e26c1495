"""Words for COCO's eighty objects: the synonyms that CHAIR counts, and other spellings of the names."""

from __future__ import annotations

SYNONYMS: dict[str, str] = {
    "person": "man, woman, boy, girl, child, kid, baby, people, adult, male, female, guy, lady, gentleman, men, women, children, "
    "mother, father, sister, grandchild, teenager, bride, groom, "
    "rider, passenger, driver, traveler, walker, camper, shopper, buyer, caller, drinker, villager, foreigner, "
    "player, pitcher, skier, snowboarder, skater, skateboarder, bicyclist, biker, hunter, cowboy, "
    "worker, coworker, chef, baker, doctor, patient, student, officer, policeman, cop, soldier, serviceman, politician, "
    "thief, offender, trespasser",
    "bicycle": "bike, unicycle, minibike, trike",
    "car": "automobile, sedan, suv, taxi, taxicab, cab, hatchback, limo, limousine, minivan, van, jeep, coupe",
    "motorcycle": "motorbike, moped, scooter, motor cycle, motor bike, dirt bike",
    "airplane": "plane, aeroplane, aircraft, jet, jetliner, airbus, biplane, monoplane, seaplane, passenger jet, air plane",
    "bus": "minibus, trolley",
    "train": "locomotive, passenger train, tramway, caboose",
    "truck": "pickup, pick-up, lorry, hauler, firetruck, semi-truck",
    "boat": "ship, sailboat, canoe, kayak, ferry, ferryboat, yacht, rowboat, motorboat, powerboat, speedboat, paddleboat, "
    "houseboat, lifeboat, tugboat, steamboat, steamship, riverboat, battleship, barge, dinghy, skiff, catamaran, pontoon, "
    "schooner, trawler, freighter, liner, sailboard, vessel, watercraft",
    "traffic light": "traffic signal, stoplight, stop light, street light, streetlight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": "seagull, gull, seabird, shorebird, waterbird, waterfowl, fowl, songbird, blackbird, bluebird, cowbird, bluejay, blue jay, "
    "pigeon, duck, mallard, goose, geese, gosling, swan, loon, parrot, parakeet, cockatoo, cockatiel, macaw, lorikeet, owl, "
    "falcon, osprey, buzzard, vulture, condor, rooster, turkey, pheasant, quail, peacock, peafowl, ostrich, crow, raven, "
    "magpie, robin, sparrow, finch, chickadee, warbler, oriole, hummingbird, kingfisher, woodpecker, heron, egret, "
    "flamingo, pelican, cormorant, puffin, sandpiper, willet",
    "cat": "kitten, feline, tabby",
    "dog": "puppy, pup, hound, mutt, canine, doggy, doggie, sheepdog, sheep dog, terrier, poodle, labrador, retriever, spaniel, "
    "cocker, bulldog, pitbull, dachshund, beagle, collie, pug, chihuahua, husky, corgi, rottweiler, doberman, schnauzer, "
    "greyhound, whippet, weimaraner, brindle",
    "horse": "pony, foal, colt, mare, stallion, mustang, racehorse, bronco, bronc, equine, palomino, clydesdale",
    "sheep": "lamb, ram, ewe, goat",
    "cow": "cattle, bull, calf, ox, oxen, heifer, holstein, zebu, bison, buffalo, buffaloes",
    "elephant": "",
    "bear": "panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "knapsack, back pack, book bag",
    "umbrella": "",
    "handbag": "purse, wallet, briefcase, hand bag",
    "tie": "bow, bow tie, bowtie, necktie",
    "suitcase": "luggage, suit case",
    "frisbee": "",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "baseball mitt",
    "skateboard": "skate board",
    "surfboard": "surf board, longboard, shortboard, skimboard, wakeboard",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "",
    "wine glass": "wineglass",
    "cup": "mug, teacup",
    "fork": "",
    "knife": "pocketknife",
    "spoon": "",
    "bowl": "container",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, sub",
    "orange": "",
    "broccoli": "",
    "carrot": "baby carrot",
    "hot dog": "hotdog, chili dog",
    "pizza": "",
    "donut": "doughnut, bagel",
    "cake": "cheesecake, cupcake, shortcake, coffeecake, pancake",
    "chair": "seat, stool",
    "couch": "sofa, recliner, loveseat, love seat, futon, settee, chesterfield",
    "potted plant": "houseplant, house plant",
    "bed": "",
    "dining table": "table, desk",
    "toilet": "urinal, commode, lavatory, potty, toilet seat, toilet bowl",
    "tv": "television, monitor",
    "laptop": "computer, laptop computer, notebook, netbook, macbook, lenovo",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "cellphone, mobile phone, phone, smartphone, iphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop, stove top oven",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge, freezer",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "scissor",
    "teddy bear": "teddybear, teddy, stuffed bear, toy bear, plush bear",
    "hair drier": "hairdryer, hair dryer, hairdrier, blow dryer",
    "toothbrush": "tooth brush",
}
SPELLINGS: dict[str, str] = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike, motor bike",
    "couch": "sofa",
    "tv": "television, tv monitor, television set",
    "potted plant": "house plant, houseplant",
    "donut": "doughnut",
    "hair drier": "hair dryer",
    "tennis racket": "tennis racquet",
    "refrigerator": "fridge",
    "cell phone": "mobile phone, cellular telephone",
    "remote": "remote control",
    "laptop": "laptop computer",
    "microwave": "microwave oven",
    "skis": "ski",
    "scissors": "scissor",
    "dining table": "dinning table, kitchen & dining room table",
    "bird": "wild bird",
}
"""Other names that data sets have for the same object; words for kinds of it, as in `SYNONYMS`, are none."""

PEOPLE = frozenset(
    ("man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "lady", "gentleman", "guy", "adult")
)
"""Categories that data sets have beside "person", though each is one."""
