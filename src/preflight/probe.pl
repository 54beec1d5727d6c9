# Dumps and restores one small process that listens on a TCP socket and has a connection open.
# Runs as the first process of namespaces of its own, so that all it makes ends with it.
#   probe.pl CRIU UID    settings of CRIU in the environment as PROBE_SETTINGS; prints `ok`, or what failed and why
use strict;
use warnings;
use Socket;
use POSIX ();

my ($criu, $uid) = @ARGV;
my ($settings, $listener);
alarm 20;
system('mount', '-t', 'tmpfs', 'tmpfs', '/run') == 0 or fail('prepare', 'no tmpfs can be mounted');
mkdir '/run/image' or fail('prepare', $!);
open($settings, '>', '/run/criu.conf') and print $settings $ENV{PROBE_SETTINGS} and close $settings or fail('prepare', $!);
$ENV{CRIU_CONFIG_FILE} = '/run/criu.conf';
system('ip', 'link', 'set', 'lo', 'up') == 0 or fail('prepare', 'there is no loopback device');
socket($listener, PF_INET, SOCK_STREAM, 0) and setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) and bind($listener, sockaddr_in(0, INADDR_LOOPBACK)) and listen($listener, 4) or fail('prepare', $!);
my $address = getsockname $listener;

my $probe = fork // fail('prepare', $!);
if ($probe == 0) {
  POSIX::setsid();
  chdir '/';
  open $_->[0], $_->[1], '/dev/null' for [*STDIN, '<'], [*STDOUT, '>'], [*STDERR, '>'];
  $_ == fileno $listener or POSIX::close($_) for 3 .. 255;
  if ($uid) { $) = "$uid $uid"; $( = $uid; POSIX::setuid($uid) }
  while (1) {
    accept(my $client, $listener) or next;
    while (sysread $client, my $byte, 1) { syswrite $client, $$ }
  }
}
close $listener;
my $connected = talk(); # and stays connected
criu('dump', '--tree', $probe);
waitpid $probe, 0;
criu('restore', '--restore-detached');
talk();
print "ok\n";

sub talk {
  my ($socket, $answer);
  socket($socket, PF_INET, SOCK_STREAM, 0) and connect($socket, $address) and syswrite($socket, '.') or fail('talk', $!);
  sysread($socket, $answer, 10) and $answer == $probe or fail('talk', 'the probe process does not answer');
  return $socket;
}

sub criu {
  my ($what, @options) = @_;
  my $pid = fork // fail($what, $!);
  if ($pid == 0) {
    open STDOUT, '>', '/run/output';
    open STDERR, '>&', \*STDOUT;
    { exec $criu, $what, '--images-dir', '/run/image', '--log-file', "$what.log", @options }
    POSIX::_exit(127);
  }
  waitpid $pid, 0;
  return if $? == 0;
  my @errors;
  for my $file ("/run/image/$what.log", '/run/output') {
    open my $log, '<', $file or next;
    push @errors, grep { /Error/ && !/RLIMIT_NOFILE/ } <$log>;
  }
  fail($what, $errors[0] // 'CRIU ended with ' . ($? >> 8));
}

sub fail {
  my ($what, $why) = @_;
  chomp $why;
  print "$what: $why\n";
  exit 1;
}
