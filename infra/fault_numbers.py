"""The numbers by which the operating system says that a machine fails, by what it lacks.

Imports nothing of ours: the child that decodes clips asks it too, and starts a thousand times.
"""

import errno

ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FILES = frozenset({errno.EMFILE, errno.ENFILE})
MEMORY = frozenset({errno.ENOMEM})
# A disk, or a mount over the network, that does not do what it should. ENXIO is none: it is said of
# a socket or a pipe that has the name of a file. Nor is EAGAIN, which locks and decoders say.
DISK = frozenset(
    {
        errno.EIO,
        errno.ENODEV,
        errno.EROFS,
        errno.EBADMSG,
        errno.EUCLEAN,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EREMOTEIO,
        errno.ENOLINK,
        errno.ENOKEY,
        errno.EKEYEXPIRED,
        errno.EKEYREVOKED,
    }
)
OF_THE_MACHINE = ROOM | FILES | MEMORY | DISK
# FFmpeg says most of them of what is wrong with a file, too: only these are certain then.
CERTAIN_FROM_FFMPEG = FILES
