/// Templates of published models, conversations, and small tokenizers that know the templates' special tokens.
module LayerSkip.Tests.ChatSupport

open System
open System.IO
open System.Text.Json
open System.Text.RegularExpressions
open LayerSkip
open LayerSkip.Tests.Support

let folder = Path.Combine(root, "tests", "LayerSkip.Formats.Tests", "Chat")
let read (name: string) = File.ReadAllText(Path.Combine(folder, name))
let json (name: string) = JsonDocument.Parse(read name).RootElement

/// Those that are committed, by name.
let templates =
    lazy
        [
            for path in Directory.GetFiles(Path.Combine(folder, "templates"), "*.jinja") |> Array.sort ->
                Path.GetFileNameWithoutExtension path, File.ReadAllText path
        ]

/// One of them.
let templateOf (name: string) : string = templates.Value |> List.find (fst >> (=) name) |> snd

let now = DateTimeOffset(2026, 7, 9, 8, 5, 3, TimeSpan.Zero)

/// What a template makes of variables in JSON, of which strings beside the messages are the program's own; None where it refuses.
let internal render (source: string) (variables: JsonElement) : Result<Marked, string> =
    let own (value: JsonElement) =
        if value.ValueKind = JsonValueKind.String then
            Value.text (value.GetString())
        else
            ChatTemplate.ofJson value

    try
        let template = JinjaTemplate.parse source
        let given _ = [ for field in variables.EnumerateObject() -> field.Name, own field.Value ]
        Ok(JinjaTemplate.render now given template)
    with
    | JinjaFault(at, what) -> Error $"{at.Line}:{at.Column}: {what}"
    | JinjaRefusal why -> Error why

/// The same without variables.
let renderPlain (source: string) : Result<string, string> =
    render source (JsonDocument.Parse("{}").RootElement) |> Result.map _.Text

let ownTokens = [ "bos_token", "<s>"; "eos_token", "</s>" ]
let parse (source: string) = ChatTemplate.parse "test" source |> Check.getOrRaise

/// What looks like a special token in a text.
let tokensIn (text: string) : string list = [
    for found in
        Regex.Matches(text, @"<\|[^<>|'""\s]{1,30}\|>|<\uFF5C[^<>'""]{1,30}\uFF5C>|</?s>|\[/?[A-Z_]{3,20}\]") ->
        found.Value
]
