#!/bin/sh
# Phippy's page: for people, and in plain words for whoever does not ask for HTML.
version=$(cat /etc/phippy-version)
pod=${POD_NAME:-$(hostname)}
node=${NODE_NAME:-some machine}
namespace=${POD_NAMESPACE:-nowhere}
if [ -s /gift/gift ]; then gift=$(cat /gift/gift); else gift="none yet"; fi
case $version in
  1) coat=blue back='#dff1fb' ;;
  *) coat=yellow back='#fdf3c4' ;;
esac

case $HTTP_ACCEPT in
  *text/html*) ;;
  *)
    printf 'Status: 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n'
    printf 'Phippy %s, in her %s coat\n' "$version" "$coat"
    printf '  pod:       %s\n  node:      %s\n  namespace: %s\n  gift:      %s\n' \
      "$pod" "$node" "$namespace" "$gift"
    exit 0
    ;;
esac

escape() { printf '%s' "$1" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'; }
printf 'Status: 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n'
cat <<HTML
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Phippy</title>
<style>
  body { font: 1.2rem/1.6 system-ui, sans-serif; background: $back; margin: 12vh auto; max-width: 32rem; }
  dt { color: #567; font-size: 0.9rem } dd { margin: 0 0 .8rem 0; font-weight: 600 }
</style>
</head>
<body>
<h1>Hello, I am Phippy.</h1>
<p>Today I wear my $coat coat. Reload the page, and perhaps one of my sisters answers.</p>
<dl>
  <dt>I live in the pod</dt><dd>$(escape "$pod")</dd>
  <dt>on the node</dt><dd>$(escape "$node")</dd>
  <dt>in a namespace of my own</dt><dd>$(escape "$namespace")</dd>
  <dt>Goldie's gift</dt><dd>$(escape "$gift")</dd>
</dl>
</body>
</html>
HTML
