# What the capture environment does, whoever started it: our own init, dracut or
# initramfs-tools. It runs in busybox's shell; what it is to do stands in capture.conf.
. /etc/crashpy/capture.conf

VMCORE=${VMCORE:-/proc/vmcore}
MOUNTED=/run/crashpy/target # where the target's file system is mounted
LOG=/run/crashpy/log
INCOMPLETE=vmcore-incomplete
umask 077
mkdir -p "$MOUNTED"

# say WORDS: to the console, the kernel's log and the log that is saved.
say() {
  echo "crashpy: $*" >>"$LOG"
  echo "<5>crashpy: $*" >/dev/kmsg 2>/dev/null || echo "crashpy: $*"
}

# run COMMAND...: what it says goes into the log; its last line is said when it fails.
run() {
  "$@" >/run/crashpy/said 2>&1
  ran=$?
  cat /run/crashpy/said >>"$LOG"
  [ "$ran" -eq 0 ] || say "$1 failed with status $ran: $(tail -n 1 /run/crashpy/said)"
  return "$ran"
}

# The time that all of it may take. A watchdog that is not asked to wait cannot hang.
watch_time() {
  sleep "$TIMEOUT_SECONDS"
  say "not done after $TIMEOUT_SECONDS seconds: reboot"
  echo s >/proc/sysrq-trigger
  sleep 2
  echo b >/proc/sysrq-trigger
}

# memory WORD: kilobytes of that line of meminfo.
memory() { awk -v name="$1:" '$1 == name { print $2 }' /proc/meminfo; }

# The least memory that was ever free, for the log: `setup size` is calibrated by it.
watch_memory() {
  least=$(memory MemAvailable)
  while :; do
    now=$(memory MemAvailable)
    [ "$now" -ge "$least" ] || least=$now
    echo "$least" >/run/crashpy/least
    sleep 1
  done
}

# Devices and their drivers.

load_drivers() {
  for name in $MODULES; do modprobe -q "$name"; done
  # Twice: a bus that was found has devices of its own.
  for pass in 1 2; do
    find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u |
      xargs -r modprobe -q -a 2>/dev/null
  done
}

# device_of SPEC: the node of UUID=..., LABEL=... or /dev/...; waits for it to appear.
device_of() {
  waited=0
  while [ "$waited" -le "$DEVICE_SECONDS" ]; do
    case $1 in
      UUID=* | LABEL=*) node=$(findfs "$1" 2>/dev/null) ;;
      *) node=$1 ;;
    esac
    if [ -b "$node" ]; then
      echo "$node"
      return 0
    fi
    sleep 1
    waited=$((waited + 1))
  done
  return 1
}

# The network.

# ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF, as the kernel takes it
# (Documentation/admin-guide/nfs/nfsroot.rst), or ip=dhcp, or ip=DEVICE:dhcp as dracut has it.
network_up() {
  asked=$(sed -n 's/.*\bip=\([^ ]*\).*/\1/p' /proc/cmdline)
  asked=${asked:-$NETWORK}
  client='' gateway='' netmask='' card='' method=dhcp
  case $asked in
    '' | dhcp | auto | any) ;;
    *:*:*:*)
      IFS=: read -r client _ gateway netmask _ card method _ <<EOF
$asked
EOF
      ;;
    *:*) card=${asked%%:*} method=${asked#*:} ;;
  esac
  waited=0
  until card=$(network_card "$card"); do
    [ "$waited" -lt "$NET_SECONDS" ] || { say "there is no network card"; return 1; }
    sleep 1
    waited=$((waited + 1))
  done
  ip link set "$card" up
  if [ -n "$client" ]; then
    ip addr add "$client/${netmask:-255.255.255.0}" dev "$card" &&
      { [ -z "$gateway" ] || ip route add default via "$gateway"; }
  else
    run udhcpc -f -q -n -i "$card" -T 2 -t "$NET_SECONDS" -s /usr/lib/crashpy/udhcpc
  fi || { say "$card has no address"; return 1; }
  say "network: $(ip -4 -o addr show dev "$card" | awk '{ print $2, $4 }')"
}

# network_card [NAME]: that one when it is there, else the first that is a device.
network_card() {
  for path in /sys/class/net/*; do
    name=${path##*/}
    [ -e "$path/device" ] || continue
    [ -z "$1" ] || [ "$1" = "$name" ] || continue
    echo "$name"
    return 0
  done
  return 1
}

# address_of HOST
address_of() {
  case $1 in
    *[!0-9.]*) ;;
    *) echo "$1"; return ;;
  esac
  awk -v host="$1" '{ for (i = 2; i <= NF; i++) if ($i == host) { print $1; exit } }' /etc/hosts |
    grep . || nslookup "$1" 2>/dev/null | awk '/^Name:/ { on = 1 } on && /^Address/ { print $NF; exit }'
}

# answers HOST PORT: whether a server listens there; tried until the network has settled.
answers() {
  waited=0
  until nc -w 3 "$1" "$2" -e true </dev/null >/dev/null 2>&1; do
    if [ "$waited" -ge "$NET_SECONDS" ]; then
      say "$1 port $2: no server answers"
      return 1
    fi
    sleep 2
    waited=$((waited + 2))
  done
}

# The target.

mount_target() {
  case $PROTOCOL in
    file) mount_disk ;;
    nfs) mount_nfs ;;
    cifs) mount_cifs ;;
    *) return 0 ;;
  esac || return 1
  FOLDER=$MOUNTED$BELOW
  [ -d "$FOLDER" ] || mkdir -p "$FOLDER" || { say "$BELOW: no such folder there"; return 1; }
}

mount_disk() {
  if [ -z "$DEVICE" ]; then # the root file system that dracut or initramfs-tools mounted
    MOUNTED=$ROOT_MOUNTED
    run mount -o remount,rw "$MOUNTED"
    return
  fi
  node=$(device_of "$DEVICE") || { say "$DEVICE: no such disk"; return 1; }
  run mount -t "$FILESYSTEM" ${MOUNT_OPTIONS:+-o "$MOUNT_OPTIONS"} "$node" "$MOUNTED"
}

# A server that is gone must become an error: soft, and not for long.
mount_nfs() {
  address=$(address_of "$SERVER")
  [ -n "$address" ] || { say "$SERVER: no such host"; return 1; }
  answers "$address" "${PORT:-2049}" || return 1
  common="addr=$address,proto=tcp,port=${PORT:-2049},soft,timeo=100,retrans=3"
  # 4.2 comes late: its READ_PLUS fails between some kernels and servers, and nothing needs it.
  for version in 4.1 4.2 4.0; do
    mount -t nfs4 -o "vers=$version,$common${MOUNT_OPTIONS:+,$MOUNT_OPTIONS}" "$SERVER:$EXPORT" "$MOUNTED" \
      2>>"$LOG" && return 0
  done
  run mount -t nfs -o "vers=3,nolock,$common${MOUNT_OPTIONS:+,$MOUNT_OPTIONS}" "$SERVER:$EXPORT" "$MOUNTED"
}

mount_cifs() {
  address=$(address_of "$SERVER")
  [ -n "$address" ] || { say "$SERVER: no such host"; return 1; }
  answers "$address" "${PORT:-445}" || return 1
  login=guest
  [ -z "$USER_NAME" ] || login="username=$USER_NAME,password=$(echo "$PASSWORD" | sed 's/,/,,/g')"
  # There is nobody else in this machine who could see the arguments.
  run mount -t cifs -o "port=${PORT:-445},$login${MOUNT_OPTIONS:+,$MOUNT_OPTIONS}" \
    "//$address/$SHARE" "$MOUNTED"
}

# Saving.

capture() {
  say "the crashed kernel is $(told OSRELEASE); memory: $(memory MemTotal) kB"
  watch_memory &
  watching=$!
  save
  saved=$?
  kill "$watching"
  say "the least memory that was available: $(cat /run/crashpy/least) kB"
  keep_log
  leave
  return "$saved"
}

save() {
  case $PROTOCOL in file) ;; *) network_up || return 1 ;; esac
  if [ -n "${TRANSFER:-}" ]; then # it does all the work
    run sh -c "$TRANSFER"
    return
  fi
  tried=1
  until mount_target; do
    [ "$tried" -lt "${TRIES:-1}" ] || return 1
    tried=$((tried + 1))
    sleep 4
  done
  if [ -n "$BEFORE" ]; then
    run sh -c "$BEFORE" || [ -z "$BEFORE_ABORTS" ] || return 1
  fi
  if [ "$ENGINE" = native ]; then save_native; else save_makedumpfile; fi
  done=$?
  [ -z "$AFTER" ] || run sh -c "$AFTER $done"
  return "$done"
}

# told NAME: a value of the crashed kernel's VMCOREINFO, which stands at the dump's start.
told() { head -c 65536 "$VMCORE" | tr '\0' '\n' | sed -n "s/^$1=//p" | head -n 1; }

save_native() {
  export FOLDER PYTHONHOME=/usr
  run python3 -S -c 'from crashpy.kdump.capture.run import main; main()' "$VMCORE"
}

# SUSE's layout: [HOST-]YYYY-MM-DD-HH-MM with README.txt, dmesg and vmcore.
save_makedumpfile() {
  stamp=$(date +%Y-%m-%d-%H-%M)
  tag=''
  case $PROTOCOL in
    file) ;;
    *) tag=$(host_tag)- ;;
  esac
  stamp=$tag$stamp
  if [ "$PROTOCOL" = ssh ]; then save_ssh; else save_folder; fi
}

# host_tag: what a dump on a server is named after.
host_tag() {
  address=''
  [ "$HOST_TAG" != ip ] ||
    address=$(ip -4 -o addr show scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
  echo "${address:-$HOST_NAME}"
}

save_folder() {
  dump=$FOLDER/$stamp
  number=1
  while [ -e "$dump" ]; do
    number=$((number + 1))
    dump=$FOLDER/$stamp.$number
  done
  mkdir "$dump" || { say "$dump: no folder can be made there"; return 1; }
  vmcore_status='This file will be overwritten' readme >"$dump/README.txt"
  dmesg_status='skipped' vmcore_status='skipped'
  if [ -n "$DMESG" ]; then
    run makedumpfile --dump-dmesg "$VMCORE" "$dump/dmesg"
    dmesg_status=$(became "$?")
  fi
  if [ "$FORMAT" != log ]; then
    write_vmcore
    vmcore_status=$(became "$?")
  fi
  readme >"$dump/README.txt"
  sync
  all_saved || return 1
  say "saved: ${dump#"$MOUNTED"}"
  [ "$FORMAT" = log ] || rotate
}

# became STATUS: what README.txt says of it.
became() { [ "$1" -eq 0 ] && echo 'saved successfully' || echo 'failed'; }

# all_saved: what the format asks for; a log that fails costs no dump.
all_saved() {
  case $FORMAT in
    log) [ "$dmesg_status" = 'saved successfully' ] ;;
    *) [ "$vmcore_status" = 'saved successfully' ] ;;
  esac
}

# The limit is makedumpfile's own: what it would write beyond it never reaches the disk.
write_vmcore() {
  for level in $LEVELS; do
    room=$(($(stat -f -c '%a * %S / 1024' "$FOLDER") - FREE_KIB))
    if [ "$room" -le 0 ]; then
      say "$FREE_KIB kB shall stay free, and there are not so many"
      return 1
    fi
    if [ "$FORMAT" = raw ]; then
      run cp "$VMCORE" "$dump/$INCOMPLETE"
    else
      run makedumpfile $FLAGS -L "${room}K" -d "$level" "$VMCORE" "$dump/$INCOMPLETE"
    fi && sync && mv "$dump/$INCOMPLETE" "$dump/vmcore" && return 0
    rm -f "$dump/$INCOMPLETE"
  done
  return 1
}

save_ssh() {
  address=$(address_of "$SERVER")
  answers "${address:-$SERVER}" "${PORT:-22}" || return 1
  vmcore_status='This file will be overwritten'
  there=$(new_folder_there "$BELOW" "$stamp") || {
    say "$SERVER:$BELOW: no folder can be made there"
    return 1
  }
  readme | on_server "umask 077 && cat >'$there/README.txt'" || return 1
  dmesg_status='skipped' vmcore_status='skipped'
  if [ -n "$DMESG" ]; then
    rm -f /run/crashpy/dmesg
    makedumpfile --dump-dmesg "$VMCORE" /run/crashpy/dmesg >>"$LOG" 2>&1 &&
      on_server "umask 077; cat >'$there/dmesg'" </run/crashpy/dmesg
    dmesg_status=$(became "$?")
  fi
  if [ "$FORMAT" != log ]; then
    send_vmcore && on_server "mv '$there/$INCOMPLETE' '$there/vmcore'" </dev/null
    vmcore_status=$(became "$?")
  fi
  readme | on_server "cat >'$there/README.txt'"
  all_saved && say "saved: $SERVER:$there" && return 0
  [ "$FORMAT" = log ] || on_server "rm -f '$there/$INCOMPLETE'" </dev/null
  say "the dump did not reach $SERVER"
  return 1
}

# The shell of busybox knows how the first program of a pipe ended by pipefail alone.
send_vmcore() {
  set -o pipefail
  if [ "$FORMAT" = raw ]; then cat "$VMCORE"; else
    makedumpfile $FLAGS -F -d "${LEVELS%% *}" "$VMCORE" 2>>"$LOG"
  fi | on_server "umask 077; cat >'$there/$INCOMPLETE' && sync"
  sent=$?
  set +o pipefail
  return "$sent"
}

# new_folder_there FOLDER NAME: its name, which has a number behind it when it was taken.
new_folder_there() {
  on_server "umask 077; mkdir -p '$1' || exit 1; n=1; new='$1/$2'
    until mkdir \"\$new\" 2>/dev/null; do
      n=\$((n + 1)); new='$1/$2'.\$n; [ \$n -lt 100 ] || exit 1
    done; echo \"\$new\"" </dev/null
}

# on_server COMMAND: standard input goes there.
on_server() {
  ssh -q -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout="$NET_SECONDS" \
    ${PORT:+-p "$PORT"} ${SSH_KEY:+-i "$SSH_KEY"} "$USER_NAME@$SERVER" "$1" 2>>"$LOG"
}

readme() {
  case $vmcore_status in
    This*)
      echo "$vmcore_status when the dump is finished."
      echo "If you see this text the crash dump is likely incomplete."
      echo
      ;;
    *)
      printf 'Kernel crashdump\n----------------\n'
      [ -z "$dmesg_status" ] || echo "dmesg status: $dmesg_status"
      echo "vmcore status: $vmcore_status"
      ;;
  esac
  echo "Kernel version: $(told OSRELEASE)"
  echo "Crash time: $(date -Iseconds -d "@$(told CRASHTIME)")"
  echo "Dump time: $(date -Iseconds)"
  echo "Host: $HOST_NAME"
  echo "Dump level: ${level:-${LEVELS%% *}}"
  echo "Dump format: $FORMAT"
}

# Old dumps go when the new one is safe, and only folders named as we name them: what
# failed counts for none.
rotate() {
  [ -n "$KEEP" ] || return 0
  day='[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-[0-9][0-9]-[0-9][0-9]'
  for old in "$FOLDER/$tag"$day "$FOLDER/$tag"$day.*; do
    [ ! -e "$old/vmcore" ] || echo "$old"
  done | sort >/run/crashpy/dumps
  count=$(wc -l </run/crashpy/dumps)
  head -n $((count > KEEP ? count - KEEP : 0)) /run/crashpy/dumps |
    while read -r old; do
      [ "$old" != "$dump" ] || continue
      say "removed, as $KEEP are kept: ${old##*/}"
      rm -rf "$old"
    done
}

# The capture kernel's own messages, beside the dump or where it should have been.
keep_log() {
  [ -n "$FOLDER" ] || return 0
  where=$(cat /run/crashpy/saved 2>/dev/null || echo "${dump:-$FOLDER}")
  [ -d "$where" ] || where=$FOLDER
  { dmesg; echo; cat "$LOG"; } >"$where/kexec-dmesg.log" 2>/dev/null || rm -f "$where/kexec-dmesg.log"
}

leave() {
  sync
  case $PROTOCOL in
    file | nfs | cifs) umount "$MOUNTED" 2>/dev/null || mount -o remount,ro "$MOUNTED" 2>/dev/null ;;
  esac
}

# finish STATUS: what is to follow.
finish() {
  if [ "$1" -eq 0 ]; then action=$FINALLY; else action=$FAILURE; fi
  say "$([ "$1" -eq 0 ] && echo 'the dump is saved' || echo 'there is no dump'): $action"
  case $action in
    shell)
      [ -z "$watcher" ] || kill "$watcher"
      echo "A shell: the machine reboots when you leave it."
      setsid cttyhack sh
      reboot -f
      ;;
    halt) halt -f ;;
    poweroff) poweroff -f ;;
    *) reboot -f ;;
  esac
  sleep 10
  echo b >/proc/sysrq-trigger
}
