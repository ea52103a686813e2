using System.Runtime.InteropServices;
using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using LayerSkip.Kernels;

// In this process: the project that BenchmarkDotNet would write and build elsewhere knows nothing of this one's settings.
var job = Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance);
BenchmarkSwitcher.FromAssembly(typeof(ProductBenchmark).Assembly).Run(args, DefaultConfig.Instance.AddJob(job));

/// <summary>One thread's product of some rows with a weight matrix of SmolLM2-135M's sizes.</summary>
public unsafe class ProductBenchmark
{
    private nint weights, x, y;
    private IKernels kernels = null!;

    [Params(WeightFormat.Float32, WeightFormat.BFloat16, WeightFormat.Float16)]
    public WeightFormat Format { get; set; }

    [Params(1, 2, 5, 8, 64)]
    public int Rows { get; set; }

    [Params("3072x576", "576x1536")]
    public string Matrix { get; set; } = "";

    private int Outs => int.Parse(Matrix.Split('x')[0]);

    private int Inner => int.Parse(Matrix.Split('x')[1]);

    [GlobalSetup]
    public void Allocate()
    {
        int bytes = Format == WeightFormat.Float32 ? 4 : 2;
        weights = Room((long)Outs * Inner * bytes);
        x = Room((long)Rows * Inner * 4);
        y = Room((long)Rows * Outs * 4);
        var random = new Random(1);

        for (long i = 0; i < (long)Outs * Inner; i++)
        {
            float value = (float)(random.NextDouble() - 0.5) / 10;

            switch (Format)
            {
                case WeightFormat.Float32:
                    ((float*)weights)[i] = value;
                    break;
                case WeightFormat.Float16:
                    ((Half*)weights)[i] = (Half)value;
                    break;
                default:
                    ((ushort*)weights)[i] = (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
                    break;
            }
        }

        kernels = KernelForms.Of(KernelForms.Best, Half16.SlowSubnormals);
    }

    [Benchmark]
    public void Product() => kernels.Product(new MatrixMemory(Format, weights, Outs), Inner, x, y, Rows);

    private static nint Room(long bytes)
    {
        void* room = NativeMemory.AlignedAlloc((nuint)bytes, 64);
        NativeMemory.Clear(room, (nuint)bytes);
        return (nint)room;
    }
}

/// <summary>One head's attention over a number of positions.</summary>
public unsafe class AttentionBenchmark
{
    private const int Dim = 64;
    private readonly float[] query = new float[Dim], result = new float[Dim];
    private float[] keys = [], values = [];
    private IKernels kernels = null!;

    [Params(32, 512, 2048)]
    public int Positions { get; set; }

    [GlobalSetup]
    public void Allocate()
    {
        (keys, values) = (new float[Positions * Dim], new float[Positions * Dim]);
        kernels = KernelForms.Of(KernelForms.Best, false);
    }

    [Benchmark]
    public void Attention()
    {
        fixed (float* q = query, k = keys, v = values, to = result)
        {
            kernels.Attention((nint)q, (nint)k, (nint)v, 0, Positions, Dim, 0.125f, (nint)to);
        }
    }
}

/// <summary>What it costs to share nothing.</summary>
public class WorkersBenchmark
{
    private static readonly Action<int> Nothing = static _ => { };

    [Benchmark]
    public void EmptyJob() => Workers.Shared.Run(Workers.Shared.Threads, Nothing);
}
