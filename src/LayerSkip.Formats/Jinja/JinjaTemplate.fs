namespace LayerSkip

open System

/// A template that was read, ready to be rendered any number of times, from any thread.
[<NoEquality; NoComparison>]
type internal JinjaTemplate = { Body: Statement list }

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal JinjaTemplate =
    // A conversation of a thousand turns takes some 10^5.
    let private steps = 10_000_000

    let private deep = "it is nested too deeply"

    /// Reads a template; JinjaFault where it is none.
    let parse (source: string) : JinjaTemplate =
        try
            { Body = JinjaParser.parse source }
        with :? InsufficientExecutionStackException ->
            raise (JinjaFault({ Line = 1; Column = 1 }, deep))

    /// What a template makes of its variables. JinjaFault where it asks for what it cannot have, JinjaRefusal where it says no.
    let render
        (now: DateTimeOffset)
        (variables: Work -> (string * Value) list)
        (template: JinjaTemplate)
        : Marked =
        let work = Work steps
        let evaluator = JinjaEvaluator work

        try
            let globals = JinjaScope null

            for name, value in JinjaGlobals.all work now @ variables work do
                globals.Set(name, value)

            let out = work.Builder()
            evaluator.Run(JinjaScope globals, out, 0, template.Body) |> ignore
            out.Finish()
        with
        | JinjaError what -> raise (JinjaFault(evaluator.At, what))
        | :? InsufficientExecutionStackException -> raise (JinjaFault(evaluator.At, deep))
