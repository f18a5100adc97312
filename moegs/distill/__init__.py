"""Teaching one expert what the whole mixture knows."""

from moegs.distill.adopt import Release, adopt, as_cloud
from moegs.distill.distill import DistillConfig, Student, distill, retrain, student_of
from moegs.distill.loss import distillation_loss
from moegs.distill.novel import with_novel_views
from moegs.distill.teacher import Teacher, cache_teacher, teacher_bytes

__all__ = [
    "DistillConfig",
    "Release",
    "Student",
    "Teacher",
    "adopt",
    "as_cloud",
    "cache_teacher",
    "distill",
    "distillation_loss",
    "retrain",
    "student_of",
    "teacher_bytes",
    "with_novel_views",
]
