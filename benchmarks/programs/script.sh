# The script that everybody writes first: psql, awk, packets. Arguments: DSN, port, file of SQL.
exec 3>"/dev/udp/127.0.0.1/$2"
psql -XAtq -F ' ' -d "$1" -f "$3" | awk '
    NR == 1 { split($0, name); next }
    {
        for (i = 3; i <= NF; i++) {
            line = "p." $1 "." $2 "." name[i] ":" $i "|g\n"
            if (length(packet) + length(line) > 1400) { printf "%s\f", packet; packet = "" }
            packet = packet line
        }
    }
    END { printf "%s\f", packet }' |
    while IFS= read -r -d $'\f' packet; do printf %s "$packet" >&3; done
