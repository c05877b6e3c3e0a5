"""What stands along the roads of the atlas: the concepts, their parents and the countries where each is typical.

The tables are about true where general knowledge of street scenery reaches, and invented where it does not: they feed a
simulation and are no reference work. Order matters inside a slot with `by_climate`: its concepts run from the equator
towards the poles, and the regions of a country share them out in that order.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTRIES: tuple[str, ...] = (
    "United States", "Brazil", "Japan", "South Africa", "Australia", "France", "India", "Kenya", "Canada", "Mexico",
    "United Kingdom", "Germany", "Argentina", "Thailand", "Russia", "Spain", "Italy", "New Zealand", "Sweden", "Chile",
    "Indonesia", "Turkey", "Poland", "Peru", "Morocco", "Norway", "Taiwan", "Greece", "Colombia", "Netherlands",
    "South Korea", "Iceland", "Ireland", "Portugal", "Finland", "Philippines", "Switzerland", "Ecuador", "Israel",
    "Romania", "Costa Rica", "Estonia", "Czechia", "Uruguay", "Egypt", "Cambodia", "Guatemala", "Hungary",
)  # fmt: skip
"""Countries in the order in which a smaller world takes them: any beginning of the list spans the continents."""

GEOCODER_NAMES: dict[str, str] = {
    "Russia": "Russian Federation",
    "South Korea": "Korea, Republic of",
    "Czechia": "Czech Republic",
}
"""Names of the offline geocoder where they differ from the everyday ones used in the tables."""

GROUPS: dict[str, str] = {
    "North America": "United States, Canada, Mexico",
    "Central America": "Costa Rica, Guatemala",
    "South America": "Brazil, Argentina, Chile, Peru, Colombia, Ecuador, Uruguay",
    "Nordic": "Sweden, Norway, Finland, Iceland",
    "Western Europe": "France, Germany, Netherlands, Switzerland, Ireland, United Kingdom",
    "Southern Europe": "Spain, Portugal, Italy, Greece",
    "Eastern Europe": "Poland, Czechia, Romania, Estonia, Hungary, Russia",
    "Southeast Asia": "Thailand, Indonesia, Philippines, Cambodia",
    "East Asia": "Japan, South Korea, Taiwan",
    "Africa": "South Africa, Kenya, Morocco, Egypt",
    "Oceania": "Australia, New Zealand",
}

DRIVES_LEFT = "United Kingdom, Ireland, Japan, India, Thailand, Indonesia, South Africa, Kenya, Oceania"


@dataclass(frozen=True)
class Slot:
    """A place in a scene that one concept of a family may take.

    Attributes:
        name: what the slot is.
        parent_concept: the coarse concept of its family.
        presence: how often the slot is filled in a country where its concepts are typical.
        telling: how much a person who labels scenes tends to choose this slot.
        regional: whether the regions of a country differ in it.
        by_climate: whether the regions share its concepts out from the equator to the poles.
        typical: concept -> the countries or groups where it is typical.
    """

    name: str
    parent_concept: str
    presence: float
    telling: float
    regional: bool
    by_climate: bool
    typical: dict[str, str]


SLOTS: tuple[Slot, ...] = (
    Slot("centre line", "Road Markings", 0.85, 0.85, False, False, {
        "Yellow Dashed Centre Line": "Canada, Mexico, South America, Central America, Japan, Israel, Finland",
        "Double Yellow Centre Line": "United States, Canada, Brazil, Taiwan, South Korea, Philippines, Colombia",
        "White Dashed Centre Line": "Western Europe, Southern Europe, Eastern Europe, Nordic, Australia, Turkey, "
        "Africa, "
        "Thailand, India, Cambodia",
        "Solid White Centre Line": "Italy, Greece, New Zealand, Indonesia, Russia, Morocco, Japan, Hungary",
    }),
    Slot("edge line", "Road Markings", 0.5, 0.8, False, False, {
        "White Edge Lines": "North America, South America, Western Europe, Southern Europe, Eastern Europe, Nordic, "
        "East Asia, Australia, Egypt, Turkey",
        "Yellow Edge Lines": "South Africa, Ireland, Israel, Kenya, Costa Rica, Chile",
    }),
    Slot("surface", "Road Surface", 0.34, 0.9, True, False, {
        "Red Dirt Road": "Kenya, Brazil, Cambodia, Australia, India",
        "Grey Gravel Road": "Argentina, Iceland, Russia, Estonia, Finland, New Zealand, Peru, Chile, Canada",
        "Cobblestone Road": "Portugal, Netherlands, Czechia, Mexico, Guatemala, Germany, Italy",
        "Pale Concrete Road": "Philippines, Indonesia, South Korea, Thailand, United States, Ecuador",
        "Cracked Patched Asphalt": "Romania, Poland, Colombia, Morocco, Egypt, Uruguay, United Kingdom, Hungary, "
        "Greece",
    }),
    Slot("bollard", "Bollards", 0.5, 1.25, False, False, {
        "Red-Banded White Bollard": "France, Australia, New Zealand, Portugal, Iceland, Poland",
        "Black-Banded White Bollard": "Germany, Switzerland, Czechia, Romania, Italy, Netherlands, Hungary",
        "Red-and-White Striped Post": "Taiwan, Russia, Norway, Chile, Greece",
        "Yellow Reflector Post": "Canada, Spain, South Africa, Sweden, Japan, United Kingdom",
        "Orange Delineator Post": "South Korea, United States, Israel, Finland, Costa Rica, Peru",
        "Black-and-White Striped Post": "India, Indonesia, Thailand, Colombia, Turkey, Philippines, Egypt, Guatemala",
        "Yellow-Topped Kilometre Stone": "Kenya, Morocco, Cambodia, Mexico, Ecuador, Uruguay",
    }),
    Slot("pole", "Utility Poles", 0.66, 0.95, True, False, {
        "Wooden Crossarm Pole": "North America, Nordic, Oceania, United Kingdom, Ireland, Kenya, Argentina, Uruguay, "
        "Estonia",
        "Round Concrete Pole": "Brazil, South America, Southeast Asia, East Asia, Spain, Israel, India, Guatemala",
        "Slotted Concrete Pole": "France, Romania, Hungary, Italy, Portugal, Poland, Brazil, Thailand, Greece",
        "Steel Lattice Pole": "Spain, Turkey, Czechia, Morocco, Egypt, South Africa, India, Russia, Germany",
        "Transformer Pole": "United States, Japan, Mexico, Philippines, South Korea, Taiwan, Costa Rica, Colombia, "
        "Canada",
        "Black-and-Yellow Striped Pole": "Japan, Taiwan, South Korea, Cambodia",
    }),
    Slot("warning sign", "Warning Signs", 0.34, 1.0, False, False, {
        "Yellow Diamond Warning Sign": "North America, South America, Central America, Japan, Thailand, Taiwan, "
        "Indonesia, Philippines, New Zealand, Cambodia",
        "Animal Crossing Diamond": "Australia, Canada, Chile, Ireland, New Zealand",
        "Red-Bordered White Triangle": "United Kingdom, France, Germany, Southern Europe, Netherlands, Switzerland, "
        "Norway, Czechia, Turkey, Romania, Hungary, Africa, Russia, Estonia, India, Israel",
        "Red-Bordered Yellow Triangle": "Sweden, Finland, Iceland, Poland, Greece, South Korea",
    }),
    Slot("direction sign", "Direction Signs", 0.34, 0.85, False, False, {
        "Green Direction Sign": "United States, Canada, Brazil, Australia, Italy, Switzerland, Mexico, Thailand, "
        "India, "
        "Kenya, South Africa, Peru, Israel, South Korea",
        "Blue Direction Sign": "Spain, Japan, Netherlands, Taiwan, Ireland, Turkey, Greece, Chile, Finland, Iceland, "
        "Russia, Czechia, Ecuador, Indonesia, Philippines, Egypt, Estonia",
        "White Direction Sign": "France, United Kingdom, Portugal, Argentina, New Zealand, Romania, Morocco, Uruguay",
        "Yellow Direction Sign": "Germany, Norway, Sweden, Poland, Colombia, Costa Rica, Cambodia",
    }),
    Slot("chevrons", "Chevron Signs", 0.3, 1.1, False, False, {
        "Black-on-Yellow Chevrons": "North America, Australia, Chile, Colombia, Peru, Brazil, Norway, Ireland, "
        "Thailand, "
        "Costa Rica, Ecuador",
        "White-on-Black Chevrons": "United Kingdom, Switzerland, Italy, Argentina, South Africa, Kenya, Indonesia, "
        "Greece, "
        "New Zealand, Uruguay",
        "Red-on-White Chevrons": "Germany, Netherlands, Czechia, Russia, Poland, Romania, Turkey, India, Israel, "
        "Taiwan, "
        "Hungary, Morocco, Japan",
        "White-on-Blue Chevrons": "France, Spain, Portugal, Sweden, Finland, Iceland, Estonia, South Korea, "
        "Philippines",
    }),
    Slot("plate", "Licence Plates", 0.4, 0.85, False, False, {
        "European Blue-Strip Plate": "Western Europe, Southern Europe, Poland, Czechia, Romania, Estonia, Hungary, "
        "Sweden, "
        "Finland, Turkey",
        "Yellow Plate": "United Kingdom, Netherlands, Israel, Colombia, Kenya",
        "Short White Plate": "North America, South America, Central America, East Asia, Thailand, Australia, "
        "Switzerland, "
        "Cambodia, Russia, Iceland",
        "Black Plate": "Indonesia, India, New Zealand, Egypt, Australia",
        "Green Plate": "Philippines, Norway, Taiwan, Morocco, South Africa, Costa Rica, South Korea, Ecuador",
    }),
    Slot("vegetation", "Vegetation", 0.88, 0.85, True, True, {
        "Banana Plants": "Ecuador, Costa Rica, Philippines, Indonesia, Kenya, India, Colombia, Cambodia, Thailand",
        "Palm Trees": "Brazil, Southeast Asia, Egypt, Morocco, Mexico, United States, India, Israel, Guatemala, "
        "Colombia, "
        "Spain, Taiwan, Costa Rica",
        "Umbrella Acacias": "Kenya, South Africa, Morocco, Israel, Brazil, Egypt",
        "Tall Cacti": "Mexico, Peru, United States, Argentina, Chile, Guatemala",
        "Eucalyptus Trees": "Australia, Portugal, Uruguay, Ecuador, South Africa, Chile, Peru, Spain",
        "Cypress Trees": "Italy, Greece, Turkey, Israel, New Zealand, Spain, Uruguay, France",
        "Broadleaf Trees": "United States, Western Europe, Eastern Europe, Argentina, Brazil, Japan, New Zealand, "
        "Turkey, "
        "South Korea",
        "Spruce Forest": "Canada, Nordic, Germany, Switzerland, Russia, United States, Czechia, Estonia, Japan, Chile, "
        "Romania, New Zealand, Poland",
        "Birch Trees": "Russia, Finland, Sweden, Estonia, Canada, Norway, Poland, Iceland",
    }),
    Slot("ground", "Ground Cover", 0.9, 0.8, True, True, {
        "Rice Paddies": "Japan, Taiwan, Indonesia, Thailand, Philippines, Cambodia, India, South Korea",
        "Red Soil": "Brazil, Kenya, Australia, South Africa, Cambodia, Uruguay, Colombia, India, Guatemala",
        "Desert Sand": "Egypt, Morocco, Israel, Peru, Mexico, United States, Chile, Australia",
        "Dry Yellow Grass": "South Africa, Spain, Turkey, Greece, Argentina, Mexico, Australia, United States, "
        "Portugal, "
        "Italy, Kenya, Romania",
        "Green Pasture": "Western Europe, Eastern Europe, New Zealand, Uruguay, Brazil, United States, Costa Rica, "
        "Ecuador, "
        "Sweden, Portugal, Italy, Argentina, Japan, Colombia, Canada, Norway, Chile",
        "Black Volcanic Ground": "Iceland, Guatemala, Ecuador, Indonesia, Italy, New Zealand",
        "Snow Patches": "Canada, Nordic, Russia, Switzerland, Estonia, Chile, Japan",
    }),
    Slot("skyline", "Skyline", 0.55, 0.8, True, False, {
        "Snow-Capped Mountains": "Switzerland, Norway, Chile, Argentina, New Zealand, Canada, Peru, Turkey, France, "
        "Italy, "
        "United States, Russia, Iceland",
        "Rounded Green Hills": "United Kingdom, Ireland, Germany, Brazil, Costa Rica, Czechia, Romania, South Korea, "
        "Uruguay, "
        "Colombia, Portugal, France, Japan, Kenya, Spain, Taiwan, Poland, Hungary",
        "Volcano Cone": "Japan, Guatemala, Ecuador, Indonesia, Philippines, Mexico, Chile, Iceland, Costa Rica",
        "Flat-Topped Mesas": "United States, South Africa, Morocco, Israel, Egypt, Australia, Argentina, Mexico",
        "Limestone Towers": "Thailand, Cambodia, Philippines, Taiwan, Greece, Indonesia",
    }),
    Slot("house", "Houses", 0.58, 0.8, True, False, {
        "Red Tile Roof": "Southern Europe, France, Germany, Czechia, Brazil, Romania, Turkey, Colombia, Poland, "
        "Hungary, "
        "Indonesia, Mexico",
        "Rusty Metal Roof": "Kenya, Philippines, Peru, South Africa, Ecuador, Guatemala, Costa Rica, Australia, Chile, "
        "Colombia, Argentina, Romania, Russia",
        "Thatched Roof": "Cambodia, Kenya, Ireland, United Kingdom, Indonesia, South Africa, Ecuador, Netherlands",
        "Flat Concrete Roof": "Egypt, Morocco, Mexico, India, Israel, Peru, Taiwan, Greece, Uruguay, Argentina, "
        "Brazil, "
        "Guatemala, Turkey, Philippines",
        "Dark Slate Roof": "United States, Canada, United Kingdom, Ireland, France, Netherlands, Switzerland, "
        "Germany, Estonia, "
        "New Zealand, Chile, Australia, Spain, Czechia",
        "Blue Metal Roof": "South Korea, Russia, Japan, India, Thailand, Poland, Taiwan",
        "Red Wooden House": "Sweden, Norway, Finland, Iceland, United States, Estonia, Canada",
        "Upturned Temple Roof": "Japan, Thailand, Taiwan, South Korea, Cambodia",
    }),
    Slot("barrier", "Barriers", 0.42, 0.9, False, False, {
        "Steel Guardrail": "United States, Western Europe, Japan, Spain, Norway, South Korea, Chile, Romania, Italy, "
        "Turkey, "
        "Iceland, Sweden",
        "Concrete Barrier": "Philippines, Israel, Taiwan, Egypt, Mexico, Russia, Guatemala, Costa Rica, Poland, "
        "Ecuador",
        "Barbed Wire Fence": "Australia, South Africa, Argentina, Uruguay, Brazil, Kenya, New Zealand, Canada, Peru, "
        "Estonia, "
        "Finland, Hungary",
        "Dry Stone Wall": "Ireland, United Kingdom, Portugal, Greece, Morocco",
        "Red-and-White Guardrail": "Indonesia, Thailand, Colombia, Czechia, Cambodia, India",
    }),
    Slot("vehicle", "Vehicles", 0.38, 1.1, False, False, {
        "Auto-Rickshaw": "India, Thailand, Egypt, Philippines, Guatemala, Cambodia, Peru",
        "Yellow Taxi": "Brazil, Turkey, Colombia, Greece, United States, Taiwan, Ecuador, Argentina",
        "Motor Scooter": "Taiwan, Indonesia, Italy, Cambodia, Thailand, Morocco",
        "Pickup Truck": "United States, Canada, Mexico, Thailand, Australia, Chile, Iceland, South Africa, Costa Rica",
        "Snorkel Camera Car": "Kenya, Iceland, Peru, Morocco",
    }),
)  # fmt: skip

SLOT_BY_NAME: dict[str, Slot] = {slot.name: slot for slot in SLOTS}
META_TO_PARENT: dict[str, str] = {meta: slot.parent_concept for slot in SLOTS for meta in slot.typical}
META_TO_SLOT: dict[str, str] = {meta: slot.name for slot in SLOTS for meta in slot.typical}
UNPAVED = ("Red Dirt Road", "Grey Gravel Road", "Cobblestone Road")
"""Surfaces that carry no painted lines."""


def members(names: str) -> frozenset[str]:
    """Countries of a comma-separated list of countries and groups.

    Args:
        names: for example `"Brazil, Nordic"`.

    Returns:
        Everyday names of the countries.

    Raises:
        KeyError: for a name that is neither a country nor a group.
    """
    found: set[str] = set()
    for name in (part.strip() for part in names.split(",")):
        if name in GROUPS:
            found |= members(GROUPS[name])
        elif name in COUNTRIES:
            found.add(name)
        else:
            raise KeyError(f"{name!r} is neither a country nor a group of the atlas")
    return frozenset(found)


def typical_concepts(slot: Slot, country: str) -> list[str]:
    """Concepts of a slot that are typical of a country (everyday name), in the order of the slot."""
    return [meta for meta, where in slot.typical.items() if country in members(where)]
