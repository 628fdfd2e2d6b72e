"""How rows are reduced: schedules for the equations of `_math`, their choice by platform, and one derivative rule."""
