namespace LayerSkip.Cli

open System
open LayerSkip

/// What somebody types in a chat.
[<RequireQualifiedAccess>]
type ChatWord =
    | Say of string
    | Help
    | Exit
    | New
    /// None: shows it.
    | System of string option
    | Regenerate
    | Undo
    | History
    | Stats
    /// None: shows all. Without a value where the option takes none.
    | Set of (string * string option) option
    /// Takes back what an option or /set said.
    | Unset of string
    | Save of string
    | Load of string
    /// Nothing was said.
    | Nothing
    /// What is wrong with a command.
    | Wrong of string

/// A message over several lines, and how it goes on.
[<RequireQualifiedAccess>]
type ChatLines =
    /// It is whole.
    | Whole of string
    /// More lines follow, up to one with three quotes, or without a backslash at its end.
    | Open of lines: string list * isQuoted: bool

[<RequireQualifiedAccess>]
module ChatWord =
    /// What each command does, for /help.
    let manual = [
        "/help", "shows this"
        "/exit", "leaves, as Ctrl-D does"
        "/new", "begins a new conversation; also /clear"
        "/system TEXT", "says what the model is to be, in a new conversation; without TEXT, shows it"
        "/regenerate", "writes the last answer again, with other random numbers"
        "/undo", "takes back the last question and its answer"
        "/history", "shows the conversation"
        "/stats", "tells what the last answer took, and what drafting did for it"
        "/set NAME VALUE",
        "changes temperature, top-k, top-p, min-p, seed, max-new-tokens or another option; without a name, shows them; json-object, json-schema, choices and regex say what answers must be"
        "/unset NAME", "takes back what --NAME or /set NAME said"
        "/save FILE", "writes the conversation to a JSON file"
        "/load FILE", "goes on with one that was saved"
        "\"\"\"", "begins a message of several lines, and ends it; a \\ at a line's end goes on with the next"
    ]

    /// Options that take no value.
    let private flags = [ "json-object"; "special" ]

    let private quotes = "\"\"\""

    /// A first line of a message.
    let begin' (line: string) : ChatLines =
        let trimmed = line.TrimStart()

        if trimmed.StartsWith(quotes, StringComparison.Ordinal) then
            let rest = trimmed.Substring quotes.Length

            match rest.IndexOf(quotes, StringComparison.Ordinal) with
            | -1 -> ChatLines.Open((if rest = "" then [] else [ rest ]), true)
            | stop -> ChatLines.Whole(rest.Substring(0, stop))
        elif line.EndsWith '\\' then
            ChatLines.Open([ line.TrimEnd '\\' ], false)
        else
            ChatLines.Whole line

    let private joined (latestFirst: string list) = String.Join('\n', List.rev latestFirst)

    /// And the next one.
    let continue' (line: string) (lines: string list) (isQuoted: bool) : ChatLines =
        if isQuoted then
            match line.IndexOf(quotes, StringComparison.Ordinal) with
            | -1 -> ChatLines.Open(line :: lines, true)
            | 0 -> ChatLines.Whole(joined lines)
            | stop -> ChatLines.Whole(joined (line.Substring(0, stop) :: lines))
        elif line.EndsWith '\\' then
            ChatLines.Open(line.TrimEnd '\\' :: lines, false)
        else
            ChatLines.Whole(joined (line :: lines))

    /// What is left of a message whose end never came.
    let ended (lines: string list) : string = joined lines

    /// What a whole message says. One of several lines is no command, nor is one that begins with two slashes, which is said with one.
    let parse (message: string) : ChatWord =
        let text = message.Trim()

        if text = "" then
            ChatWord.Nothing
        elif text.StartsWith "//" then
            ChatWord.Say(text.Substring 1)
        elif not (text.StartsWith '/') || text.Contains '\n' then
            ChatWord.Say message
        else
            let name, rest =
                match text.IndexOf ' ' with
                | -1 -> text, ""
                | at -> text.Substring(0, at), text.Substring(at + 1).Trim()

            let alone word =
                if rest = "" then
                    word
                else
                    ChatWord.Wrong $"{name} takes nothing after it"

            let file make =
                if rest = "" then
                    ChatWord.Wrong $"{name} needs a file: {name} FILE"
                else
                    make rest

            match name.ToLowerInvariant() with
            | "/help"
            | "/?" -> alone ChatWord.Help
            | "/exit"
            | "/quit"
            | "/bye" -> alone ChatWord.Exit
            | "/new"
            | "/clear" -> alone ChatWord.New
            | "/system" -> ChatWord.System(if rest = "" then None else Some rest)
            | "/regenerate"
            | "/retry" -> alone ChatWord.Regenerate
            | "/undo" -> alone ChatWord.Undo
            | "/history" -> alone ChatWord.History
            | "/stats" -> alone ChatWord.Stats
            | "/save" -> file ChatWord.Save
            | "/load" -> file ChatWord.Load
            | "/set" when rest = "" -> ChatWord.Set None
            | "/set" ->
                match rest.Split([| ' '; '=' |], 2, StringSplitOptions.RemoveEmptyEntries) with
                | [| option; value |] -> ChatWord.Set(Some(option.TrimStart '-', Some(value.Trim())))
                | [| flag |] when List.contains (flag.TrimStart '-') flags ->
                    ChatWord.Set(Some(flag.TrimStart '-', None))
                | _ -> ChatWord.Wrong $"/set needs a name and a value, as /set temperature 0.7"
            | "/unset" when rest = "" -> ChatWord.Wrong "/unset needs a name, as /unset temperature"
            | "/unset" -> ChatWord.Unset(rest.TrimStart '-')
            | _ ->
                ChatWord.Wrong
                    $"there is no command {Printable.line (Printable.cut 40 name)}; /help lists them, and // begins a message with a slash"
