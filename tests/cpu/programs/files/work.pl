# SPDX-License-Identifier: GPL-2.0-or-later
# Hashes, regular expressions, formats, big numbers, sorting, packing, processes.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Digest::MD5 qw(md5_hex);
use Math::BigInt;
use Math::BigFloat;
use MIME::Base64;
use Storable qw(freeze thaw dclone);
use List::Util qw(sum reduce shuffle max);
use POSIX qw(floor fmod strtol);
use Encode;
$Storable::canonical = 1;
my $state = 12345;
sub rnd { $state = ($state * 1103515245 + 12345) & 0x7fffffff; return $state }
my @words = map { join '', map { chr(97 + rnd() % 26) } 1 .. 3 + rnd() % 8 } 1 .. 20000;
my %count;
$count{substr $_, 0, 2}++ for @words;
print sha256_hex(join ',', map { "$_=$count{$_}" } sort keys %count), "\n";
print md5_hex(join ' ', sort { length $a <=> length $b || $a cmp $b } @words), "\n";
my $text = join ' ', @words;
my $found = 0;
$found++ while $text =~ /\b(\w)(\w)\w*\2\1\b/g;
print "palindromes $found\n";
(my $changed = $text) =~ s/([aeiou])([^aeiou ]+)/\U$2\E$1/g;
print sha256_hex($changed), "\n";
print sha256_hex(join '|', split /(?<=[aeiou])(?=[^aeiou])|\s+/, $text), "\n";
my $factorial = Math::BigInt->new(200)->bfac;
print "$factorial\n", $factorial->copy->bsqrt, "\n";
print Math::BigFloat->new(2)->bsqrt(120), "\n", Math::BigFloat->bpi(150), "\n";
my @floats = map { sin($_) * exp($_ / 100) + atan2($_, 3) ** 3 - fmod($_ * 7.3, 2.9) } 1 .. 5000;
print sha256_hex(join ',', map { sprintf '%.17g', $_ } @floats), "\n";
printf "%.17g %.17g\n", sum(@floats), max(@floats);
my $packed = pack 'w/a N n C V v Q> q< d> f< Z*', 'abc', 1, 2, 3, 4, 5, 6, -7, 1.5, 2.25, 'end';
print unpack('H*', $packed), ' ', join(',', unpack 'w/a N n C V v Q> q< d> f< Z*', $packed), "\n";
my $deep = { map { $_ => [map { { n => $_, s => "x$_" } } 1 .. 20] } 1 .. 200 };
print sha256_hex(freeze(dclone(thaw(freeze($deep))))), "\n";
print sha256_hex(encode_base64(encode('UTF-8', join '', map { chr(0x100 + rnd() % 0x2000) } 1 .. 5000))), "\n";
sub ackermann { my ($m, $n) = @_; no warnings 'recursion'; return $m == 0 ? $n + 1 : $n == 0 ? ackermann($m - 1, 1) : ackermann($m - 1, ackermann($m, $n - 1)) }
print ackermann(2, 60), "\n";
my @primes = grep { my $n = $_; my $ok = $n > 1; for (my $d = 2; $d * $d <= $n; $d++) { if ($n % $d == 0) { $ok = 0; last } } $ok } 1 .. 20000;
print scalar(@primes), " $primes[-1]\n";
for my $worker (1 .. 8) {
    pipe(my $read, my $write) or die;
    my $child = fork // die;
    if ($child == 0) { my $s = 0; $s = ($s * 31 + ord $_) % 1000003 for split //, substr $text, $worker * 1000, 20000; print $write "$worker $s\n"; close $write; exit $worker }
    close $write;
    print <$read>;
    waitpid $child, 0;
    print $? >> 8, "\n";
}
local $SIG{ALRM} = sub { die "alarm\n" };
for (1 .. 5) { eval { POSIX::sigaction(POSIX::SIGALRM, POSIX::SigAction->new(sub { die "alarm\n" })); require Time::HiRes; Time::HiRes::ualarm(20000); 1 while 1 }; print "$_ $@" }
