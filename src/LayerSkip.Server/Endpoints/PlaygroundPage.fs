namespace LayerSkip.Server

open System
open System.IO
open System.Reflection
open System.Security.Cryptography
open System.Text
open System.Threading.Tasks
open Microsoft.AspNetCore.Http

/// `/`: one page, which asks for nothing but this server.
[<RequireQualifiedAccess>]
module internal PlaygroundPage =
    let private resource (name: string) : string =
        use stream = Assembly.GetExecutingAssembly().GetManifestResourceStream name
        use reader = new StreamReader(stream, Encoding.UTF8)
        reader.ReadToEnd()

    let private hash (text: string) =
        $"'sha256-{Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes text))}'"

    /// The page, and the policy that lets a browser run what is in it and nothing else.
    let private page =
        lazy
            (let style, script = resource "playground.css", resource "playground.js"

             let html = (resource "playground.html").Replace("/*style*/", style).Replace("/*script*/", script)

             let policy =
                 String.concat "; " [
                     "default-src 'none'"
                     $"style-src {hash style}"
                     $"script-src {hash script}"
                     "connect-src 'self'"
                     "img-src data:"
                     "base-uri 'none'"
                     "form-action 'none'"
                     "frame-ancestors 'none'"
                 ]

             struct (ReadOnlyMemory(Encoding.UTF8.GetBytes html), policy))

    /// Answers with it.
    let serve (context: HttpContext) : Task =
        let struct (html, policy) = page.Value
        context.Response.Headers["Content-Security-Policy"] <- policy
        context.Response.Headers["Referrer-Policy"] <- "no-referrer"
        context.Response.Headers["Cache-Control"] <- "no-cache"
        Reply.bytes StatusCodes.Status200OK "text/html; charset=utf-8" html context
