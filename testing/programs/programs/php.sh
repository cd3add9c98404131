# php-cli's sysvmsg and sysvsem with PHP's own tests, run by PHP's own runner.
cp -r "$FETCHED/php/." .
export NO_INTERACTION=1 TEST_PHP_EXECUTABLE=/usr/bin/php
/usr/bin/php run-tests.php -q --show-diff ext/sysvmsg/tests ext/sysvsem/tests | tee result
grep -Eq '^Tests passed +: +[1-9]' result
